"""A backbone to start from."""
