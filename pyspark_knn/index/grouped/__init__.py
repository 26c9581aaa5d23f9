"""The search within groups of items: a query is compared with the items of its own groups only."""
