"""An objective to start from."""
