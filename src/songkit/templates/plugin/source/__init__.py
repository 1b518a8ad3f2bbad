"""A source to start from."""
