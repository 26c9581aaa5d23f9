"""The search, as it runs in Python workers."""
