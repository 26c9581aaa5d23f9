"""How indexes and functions get to the Python workers."""
