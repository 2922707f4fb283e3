"""Training of lifters and refiners: one loop, checkpoints that hold everything, resumable. Needs PyTorch."""
