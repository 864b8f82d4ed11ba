"""Features that other code published, as stores: those of temporal_matching."""
