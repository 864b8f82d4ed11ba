"""Decoded frames to network input: geometry, colours, and the named pipelines of published code."""
