"""Approximate indexes."""
