"""Shipping of indexes and functions to the Python workers."""
