"""Nearest-neighbour search on numpy arrays. Nothing in here knows Spark."""
