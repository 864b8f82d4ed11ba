"""Which videos there are: datasets on disk, and catalogs of them."""
