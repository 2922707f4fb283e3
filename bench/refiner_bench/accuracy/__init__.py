"""Accuracy: reports of the bundled models, scores of clips, and accuracy reports as tables and plots."""
