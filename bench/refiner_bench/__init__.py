"""refiner-bench: what the models cost, in FLOPs and in time."""
