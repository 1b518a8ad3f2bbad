"""A metric to start from."""
