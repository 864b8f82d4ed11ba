"""The training loop and one training from start to result."""
