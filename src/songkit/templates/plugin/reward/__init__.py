"""A reward to start from."""
