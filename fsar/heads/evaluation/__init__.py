"""Accuracy over many episodes, and its tables."""
