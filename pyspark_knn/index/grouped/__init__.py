"""Search within groups of items."""
