"""Fit: the items DataFrame, read once and packed into chunks."""
