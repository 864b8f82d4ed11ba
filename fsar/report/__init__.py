"""Report pages: one self-contained HTML file about runs, or about a store."""
