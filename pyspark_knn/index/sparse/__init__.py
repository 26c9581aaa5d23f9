"""Search of sparse vectors: of the values that are not 0."""
