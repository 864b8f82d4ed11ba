"""Train a backbone and a head together, from pixels."""
