"""Nearest-neighbor search on numpy arrays, independent of Spark."""
