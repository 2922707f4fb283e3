"""Files of models: checkpoints, and the networks that they describe."""
