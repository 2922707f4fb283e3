"""``refiner-bench archive``: what an archive costs beside its engine, in memory, on Ray, and on a large cluster."""
