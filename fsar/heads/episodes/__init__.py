"""Episodes: which videos are drawn, and their features as batches."""
