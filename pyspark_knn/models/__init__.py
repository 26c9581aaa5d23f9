"""Fitted models: what their classes have in common, and the parts of them."""
