"""A head and a store brought together, checked before anything is computed."""
