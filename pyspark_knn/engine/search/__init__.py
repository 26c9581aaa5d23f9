"""What runs in a Python worker that searches."""
