"""The columns that an imputer reads and writes."""
