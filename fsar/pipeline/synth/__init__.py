"""The synthetic dataset: short videos of paired motions."""
