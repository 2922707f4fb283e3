"""``refiner-bench streaming``: latency per frame of a live stream, and its error by delay."""
