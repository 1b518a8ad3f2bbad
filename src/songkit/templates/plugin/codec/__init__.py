"""A codec to start from."""
