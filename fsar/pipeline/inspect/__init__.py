"""What the videos of a catalog are, read quickly and before anything is computed from them."""
