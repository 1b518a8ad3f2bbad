"""A tokenizer to start from."""
