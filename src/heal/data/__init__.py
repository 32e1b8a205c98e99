"""Problems in, others' traces in, training files out."""
