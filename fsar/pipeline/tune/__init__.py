"""Train a backbone on the base classes."""
