"""Hypothesis for the unit tests: the same examples in each run, or many new ones.

HYPOTHESIS_PROFILE=hunt looks for new counterexamples, for as long as you like to wait.
"""

import os

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("unit", max_examples=12, derandomize=True, deadline=None)
settings.register_profile("hunt", max_examples=1200, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "unit"))


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Images: items, and queries that are not among them."""
    from sklearn.datasets import load_digits

    images = np.random.default_rng(0).permutation(load_digits().data.astype(np.float32))
    return images[:1500], images[1500:]
