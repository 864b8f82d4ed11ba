"""Official forms of the metric heads."""
