"""Class names to text vectors."""
