"""Approximate indexes: they find most of the nearest items, in a fraction of the time."""
