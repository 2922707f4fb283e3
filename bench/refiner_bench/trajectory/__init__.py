"""``refiner-bench trajectory``: the errors of the root's trajectory, by what is known about camera and person."""
