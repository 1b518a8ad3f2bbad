"""A conditioner to start from."""
