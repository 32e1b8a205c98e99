"""The `ray` engine: other engines inside the actors of a Ray cluster."""
