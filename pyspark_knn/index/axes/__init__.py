"""Principal axes: an exact search that compares most pairs by a few coordinates only."""
