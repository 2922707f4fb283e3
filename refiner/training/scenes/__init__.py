"""Training scenes, drawn in batches on any device: motion, bodies, cameras and simulated detections."""

from refiner.training.scenes.sampler import SceneBatch, SceneSampler

__all__ = ["SceneBatch", "SceneSampler"]
