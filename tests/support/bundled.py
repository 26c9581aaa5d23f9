"""The data sets that scikit-learn ships, with values knocked out at random."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import datasets

Matrix = NDArray[np.float64]

NAMES = ("iris", "wine", "breast_cancer", "diabetes", "digits", "linnerud")
"""The data sets that scikit-learn loads without a download."""

MOST_ROWS = 250
"""Of each data set only so many rows are used, to keep the tests short."""


def load(name: str) -> Matrix:
    """The features of a data set: the first rows after a shuffle with a fixed seed."""
    loader: Callable[[], Any] = getattr(datasets, f"load_{name}")
    rows = np.asarray(loader().data, dtype=np.float64)
    order = np.random.default_rng(0).permutation(len(rows))
    return rows[order[:MOST_ROWS]]


def knocked_out(rows: Matrix, share: float, seed: int) -> Matrix:
    """The rows with a share of their values missing, which are NaN."""
    missing = np.random.default_rng(seed).random(rows.shape) < share
    return np.where(missing, np.nan, rows)


def without_ties(rows: Matrix, seed: int = 0) -> Matrix:
    """The rows with noise of a thousandth of each feature's spread, so that no distances are equal.

    scikit-learn breaks ties in an order of its own.
    """
    noise = np.random.default_rng(seed).normal(size=rows.shape)
    return rows + 1e-3 * rows.std(axis=0) * noise
