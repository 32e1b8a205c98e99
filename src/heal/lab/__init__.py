"""A small world of number sequences where the truth of every reasoning step is known."""
