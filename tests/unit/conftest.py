"""Hypothesis for the unit tests: the same examples in each run, or many new ones.

HYPOTHESIS_PROFILE=hunt looks for new counterexamples, for as long as you like to wait.
"""

import os

from hypothesis import settings

settings.register_profile("unit", max_examples=12, derandomize=True, deadline=None)
settings.register_profile("hunt", max_examples=1200, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "unit"))
