"""The embedded engine: our own decode loop over transformers weights."""
