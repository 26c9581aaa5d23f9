"""Saving and loading of stages."""
