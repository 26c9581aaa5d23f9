"""The principal axes of some items, and the coordinates of vectors on the first of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pyspark_knn.index.rounding import U, V
from pyspark_knn.index.score_space import squared_norms

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Rotation(NamedTuple):
    """A center, and the first principal axes of vectors around it.

    Attributes
    ----------
    center : ndarray of shape (n_features,), dtype float64
        The median of each feature in a sample of the items' vectors.
    axes : ndarray of shape (n_features, n_axes), dtype float64
        Unit vectors that are orthogonal to each other up to rounding, by descending variance.
    error : float
        See `pyspark_knn.index.axes.bounds`: the epsilon of an extended prefix, relative to the
        size of the vector.
    """

    center: NDArray[np.float64]
    axes: NDArray[np.float64]
    error: float

    @classmethod
    def of(cls, center: NDArray[np.float64], axes: NDArray[np.float64]) -> Rotation:
        """Return the rotation onto some axes, with its error.

        Parameters
        ----------
        center : ndarray of shape (n_features,), dtype float64
            See the class.
        axes : ndarray of shape (n_features, n_axes), dtype float64
            See the class.

        Returns
        -------
        Rotation
            The rotation.
        """
        return cls(center, axes, _error(axes))

    @property
    def n_axes(self) -> int:
        """The number of axes."""
        return int(self.axes.shape[1])

    def first(self, n_axes: int) -> Rotation:
        """Return the rotation onto the first `n_axes` of the axes."""
        return Rotation.of(self.center, np.ascontiguousarray(self.axes[:, :n_axes]))

    def extended(self, vectors: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return extended prefixes: the coordinates on the axes, and the norm of the rest.

        Parameters
        ----------
        vectors : ndarray of shape (n_rows, n_features), dtype float32 or float64
            Vectors in the score space.

        Returns
        -------
        ndarray of shape (n_rows, n_axes + 1), dtype float32
            The extended prefix of each.
        """
        centered = vectors - self.center
        coordinates = centered @ self.axes
        result = np.empty((len(vectors), self.n_axes + 1), np.float32)
        result[:, :-1] = coordinates
        rest = squared_norms(centered)
        rest -= squared_norms(coordinates)
        result[:, -1] = np.sqrt(np.maximum(rest, 0.0, out=rest), out=rest)
        return result


def principal_axes(sample: NDArray[np.floating]) -> Rotation:
    """Return the principal axes of a sample, all of them, by descending variance.

    Parameters
    ----------
    sample : ndarray of shape (n_rows, n_features), dtype float32 or float64
        Vectors in the score space.

    Returns
    -------
    Rotation
        The axes.
    """
    # Not the mean, which a single outlier moves, so that all vectors would be long.
    center = np.median(sample, axis=0).astype(np.float64)
    centered = sample - center
    axes = np.linalg.eigh(centered.T @ centered / len(sample))[1]
    return Rotation.of(center, np.ascontiguousarray(axes[:, ::-1]))


def _error(axes: NDArray[np.float64]) -> float:
    """Return the epsilon of `pyspark_knn.index.axes.bounds`."""
    n_features, n_axes = axes.shape
    levels = n_features.bit_length()
    gram = axes.T @ axes
    gram[np.diag_indices(n_axes)] -= 1.0
    skew = float(np.linalg.norm(gram)) + n_features * n_axes * V
    vectors = (n_features / 2 + levels / 2 + 10) * V
    coordinates = skew + n_features * n_axes**0.5 * V + vectors
    squares = (2 * n_features + 8) * V + 2.0 * coordinates
    return float(1.05 * (U + coordinates + (2.0 * squares) ** 0.5))
