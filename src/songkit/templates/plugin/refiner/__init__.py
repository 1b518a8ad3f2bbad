"""A refiner to start from."""
