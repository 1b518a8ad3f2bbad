"""A task to start from."""
