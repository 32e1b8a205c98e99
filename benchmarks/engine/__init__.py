"""The rows of the engine's benchmark table."""
