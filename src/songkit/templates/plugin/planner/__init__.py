"""A planner to start from."""
