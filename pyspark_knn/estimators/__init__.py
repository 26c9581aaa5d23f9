"""Estimators: what their classes have in common, and fits of several param maps."""
