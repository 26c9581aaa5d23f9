"""The typical magnitude of vectors, and how far their center is from zero."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WORTH_CENTERING = 0.75
"""The share of the mean in the sum of squares from which on the mean is subtracted: it costs
digits."""

_SAFE_EXPONENT = 24
"""Coordinates of magnitudes between ``2**-24`` and ``2**24`` are not scaled."""


def worthwhile_center(sample: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of vectors, or zeros where it is small beside their spread.

    Parameters
    ----------
    sample : ndarray of shape (n_rows, n_features), dtype float64
        Vectors.

    Returns
    -------
    ndarray of shape (n_features,), dtype float64
        The center.
    """
    largest = float(np.abs(sample).max())
    if not largest:
        return np.zeros(sample.shape[1])
    scaled = sample / largest
    mean = scaled.mean(axis=0)
    if (mean**2).sum() < _WORTH_CENTERING * (scaled**2).sum(axis=1).mean():
        return np.zeros(sample.shape[1])
    center: NDArray[np.float64] = mean * largest
    return center


def typical_exponent(sample: NDArray[np.float64]) -> int:
    """Return the exponent of the typical magnitude of vectors, or 0 where float32 holds it.

    Parameters
    ----------
    sample : ndarray of shape (n_rows, n_features), dtype float64
        Vectors.

    Returns
    -------
    int
        The exponent.
    """
    exponent = int(np.frexp(typical_size(sample))[1])
    return exponent if abs(exponent) > _SAFE_EXPONENT else 0


def typical_size(sample: NDArray[np.float64]) -> float:
    """Return the median of the largest values of vectors.

    Parameters
    ----------
    sample : ndarray of shape (n_rows, n_features), dtype float64
        Vectors.

    Returns
    -------
    float
        The median over all vectors that are not zero; 0 if all are zero.
    """
    sizes = np.abs(sample).max(axis=1)
    sizes = sizes[sizes > 0]
    return float(np.median(sizes)) if sizes.size else 0.0
