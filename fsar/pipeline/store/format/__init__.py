"""What the bytes of a store mean."""
