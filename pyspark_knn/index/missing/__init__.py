"""The metric nan_euclidean, in which a NaN is a missing value."""
