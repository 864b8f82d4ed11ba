"""Videos to other videos or pictures: the convert and extract stages."""
