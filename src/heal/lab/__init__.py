"""A small world of rows of numbers where the truth of every reasoning step is known."""
