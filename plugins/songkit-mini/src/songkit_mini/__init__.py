"""A LeVo 2 in miniature with its trained weights."""
