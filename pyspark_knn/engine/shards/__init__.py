"""A sharded index: how shards are built, and the plan that searches them."""
