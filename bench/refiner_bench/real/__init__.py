"""``refiner-bench real``: real videos and a real detector, scored against a triangulated truth."""
