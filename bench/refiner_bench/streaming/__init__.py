"""``refiner-bench streaming``: what a live stream costs a frame, and how good it is at which delay."""
