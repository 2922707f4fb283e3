"""Model files: checkpoints, and building the networks that they describe."""
