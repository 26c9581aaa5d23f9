"""The Params of the stages, and the checks of their values."""
