"""Songs with ground truth, made on the spot."""
