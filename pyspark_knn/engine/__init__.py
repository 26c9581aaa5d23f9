"""How rows and indexes move through Spark."""
