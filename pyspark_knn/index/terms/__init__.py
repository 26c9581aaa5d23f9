"""Brute force for the metrics that are sums of one term for each feature."""
