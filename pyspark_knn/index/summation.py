"""Sums whose order is pinned, of terms that neither overflow nor underflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Block = NDArray[np.float64]

# Below it, squares may have lost bits to gradual underflow: a term is off by at most 2**-1075,
# which is nothing beside 2**-900 even when 2**20 terms are summed.
_TINY = 2.0**-900


def fold(terms: Block) -> NDArray[np.float64]:
    """Sum each row in an order that its length alone determines.

    The upper half of the columns is added to the lower half, until one column is left: a pairwise
    sum, whose relative error for terms of one sign is at most ``ceil(log2(n)) * 2**-53`` (Higham,
    Accuracy and Stability of Numerical Algorithms, 2nd ed., section 4.2).

    Parameters
    ----------
    terms : ndarray of shape (n_pairs, n_features), dtype float64
        At least one column. Overwritten.

    Returns
    -------
    ndarray of shape (n_pairs,), dtype float64
    """
    width = terms.shape[1]
    while width > 1:
        half = width // 2
        rest = width - half
        if half <= 4:
            # Short inner loops cost more than the additions in them: go column by column.
            for column in range(half):
                terms[:, column] += terms[:, rest + column]
        else:
            lower = terms[:, :half]
            np.add(lower, terms[:, rest:width], out=lower)
        width = rest
    return terms[:, 0].copy()


def scale(rows: Block) -> tuple[Block, NDArray[np.int64]]:
    """Scale each row by a power of two so that its largest magnitude is in [0.5, 1).

    Returns the scaled rows and the exponents: ``rows == scaled * 2**exponent``. Exact, but for
    components below 2**-1021 of the largest, which may lose bits that no sum would notice.
    """
    exponents = np.frexp(np.abs(rows).max(axis=1))[1].astype(np.int64)
    return np.ldexp(rows, -exponents[:, None]), exponents


def scaled_difference(
    left: Block, right: Block, factor: NDArray[np.float64] | None = None
) -> tuple[Block, NDArray[np.int64]]:
    """Differences, scaled as by `scale`, also where they are beyond the range of float64.

    With a `factor` they are multiplied by it, and the largest magnitude is in [0.25, 1).
    """
    with np.errstate(over="ignore"):
        difference = left - right
    beyond = np.isinf(difference).any(axis=1)
    difference[beyond] = left[beyond] * 0.25 - right[beyond] * 0.25
    if factor is None:
        scaled, exponents = scale(difference)
        return scaled, exponents + 2 * beyond
    # Fractions and exponents apart, since a product may be out of range where its row is not.
    fractions, powers = np.frexp(difference)
    more_fractions, more_powers = np.frexp(factor)
    fractions *= more_fractions
    powers = np.where(fractions == 0, -10_000, powers.astype(np.int64) + more_powers)
    exponents = powers.max(axis=1)
    return np.ldexp(fractions, powers - exponents[:, None]), exponents + 2 * beyond


def unsafe(sums: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which sums of powers overflowed, or are so small that terms may have lost bits."""
    return ~((sums >= _TINY) & (sums < np.inf))
