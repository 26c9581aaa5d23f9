"""The float32 coordinates in which an approximate index compares vectors, by euclidean distance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pyspark_knn.index.angles import ANGLES, unit_rows
from pyspark_knn.index.approximate.magnitudes import (
    typical_exponent,
    typical_size,
    worthwhile_center,
)
from pyspark_knn.index.approximate.structures import check_structure, damaged

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.distances import Metric

    Transform = Callable[[NDArray[np.floating]], NDArray[np.float64]]

_SAMPLE_ITEMS = 1 << 14
"""Items of the sample from which the center and the magnitude are computed."""

_BLOCK_FLOATS = 1 << 22
"""Numbers in the coordinates that are computed at a time."""

_LARGEST = 2.0**55
"""Coordinates are cut off here, so that the sum of 2**16 squared differences is finite in
float32."""

_HUGE = 2.0**500
"""Numbers that would overflow when they are scaled become this. It is cut off in the end."""

_TIMES_FARTHER = 2.0**16
"""At this multiple of the typical size of the items, their distances differ in the last 8 bits of
float32."""

_LARGEST_EXPONENT = 1100
"""No float64 has a larger one."""

_PLAIN = frozenset({"euclidean", "minkowski", "seuclidean", "sqeuclidean"})

METRICS = frozenset({*_PLAIN, *ANGLES, "inner_product"})
"""The metrics whose order of the items is the order of the euclidean distances of coordinates."""


def has_coordinates(metric: Metric) -> bool:
    """Return whether a metric has coordinates; minkowski with p of 2 only.

    Parameters
    ----------
    metric : Metric
        A resolved metric.

    Returns
    -------
    bool
        Whether `Coordinates.of` supports it.
    """
    return metric.name in METRICS and (metric.name != "minkowski" or metric.p == 2)


@dataclass(frozen=True, eq=False)
class Coordinates:
    """The transform of vectors to float32 coordinates.

    The nearest coordinates by euclidean distance are the nearest items by the metric, except for
    rounding. For cosine and correlation, the coordinates are unit vectors. For inner_product, and
    for unit vectors where some items are zero, they have one more coordinate, which is 0 for
    queries. It gives all items the same norm, so that the largest product has the smallest distance
    [1]_.

    Attributes
    ----------
    metric : Metric
        The metric.
    center : ndarray of shape (n_features,), dtype float64
        The center of the items, if it is far away, else zero. It is subtracted in the end.
    exponent : int
        Vectors are multiplied by ``2**-exponent`` first.
    norm : float
        The norm of the items with the additional coordinate; 0 without one.
    reach : float
        Queries with a coordinate beyond this are so far away that float32 cannot tell the items
        apart.
    padding : int
        Coordinates of 0 that are appended.

    References
    ----------
    .. [1] Y. Bachrach et al., "Speeding up the Xbox recommender system using a euclidean
       transformation for inner-product spaces", RecSys 2014.
    """

    metric: Metric
    center: NDArray[np.float64]
    exponent: int = 0
    norm: float = 0.0
    reach: float = _LARGEST
    padding: int = 0

    @classmethod
    def of(cls, metric: Metric, matrix: NDArray[np.floating]) -> Coordinates:
        """Choose the transform for a metric and the magnitudes of the items.

        Parameters
        ----------
        metric : Metric
            A metric that `has_coordinates`.
        matrix : ndarray of shape (n_items, n_features), dtype float32 or float64
            The items.

        Returns
        -------
        Coordinates
            The transform.
        """
        zero = np.zeros(matrix.shape[1])
        sample = matrix[:: max(1, len(matrix) // _SAMPLE_ITEMS)]
        exponent = (
            0 if metric.name in ANGLES else typical_exponent(cls(metric, zero)._moved(sample))
        )
        space = cls(metric, zero, exponent)
        moved = np.clip(space._moved(sample), -_LARGEST, _LARGEST)
        center = worthwhile_center(moved)
        reach = min(_LARGEST, _TIMES_FARTHER * typical_size(moved - center))
        norm = 0.0
        if metric.name not in _PLAIN:
            squares = np.concatenate([space._squares(matrix[b]) for b in space.blocks(len(matrix))])
            # Only zero vectors need the additional coordinate by an angle.
            needed = metric.name == "inner_product" or not squares.all()
            norm = float(needed)
            if metric.name == "inner_product":
                norm = float(np.sqrt(squares.max()) or 1.0)
        return cls(metric, center, exponent, norm, reach or _LARGEST)

    @property
    def n_coordinates(self) -> int:
        """The number of coordinates."""
        return len(self.center) + (self.norm > 0) + self.padding

    @property
    def changes_nothing(self) -> bool:
        """Whether the coordinates of a float32 matrix are the matrix itself, if none is large."""
        plain = self.metric.name in _PLAIN and "factor" not in self.metric.params
        return plain and not self.exponent and not self.center.any()

    def blocks(self, n_items: int) -> Iterator[slice]:
        """Yield ranges of items whose coordinates fit in a buffer.

        Parameters
        ----------
        n_items : int
            The number of items.

        Yields
        ------
        slice
            The positions of a block.
        """
        step = max(1, _BLOCK_FLOATS // (len(self.center) + 1))
        for start in range(0, n_items, step):
            yield slice(start, min(start + step, n_items))

    def coordinates(self, rows: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the coordinates of items.

        Parameters
        ----------
        rows : ndarray of shape (n_rows, n_features), dtype float32 or float64
            Items.

        Returns
        -------
        ndarray of shape (n_rows, n_coordinates), dtype float32
            Their coordinates, C-contiguous; may be `rows` itself.
        """
        found = self._centered(rows, self._moved)
        if not self.norm:
            return self._padded(found)
        squares = self._squares(rows)
        last = np.sqrt(np.maximum(self.norm**2 - squares, 0.0))
        if self.metric.name in ANGLES:
            last = (squares == 0).astype(np.float64)
        return self._padded(np.column_stack([found, last.astype(np.float32)]))

    def holds(self, rows: NDArray[np.floating]) -> bool:
        """Return whether the transform is right for further items.

        Parameters
        ----------
        rows : ndarray of shape (n_rows, n_features), dtype float32 or float64
            Items that are added.

        Returns
        -------
        bool
            False if one has a larger norm than all items before, or is the first zero vector, which
            would need the additional coordinate.
        """
        if self.metric.name in _PLAIN:
            return True
        for where in self.blocks(len(rows)):
            squares = self._squares(rows[where])
            if self.metric.name == "inner_product":
                if (squares > self.norm**2 * (1 + 1e-12)).any():
                    return False
            elif not (self.norm or squares.all()):
                return False
        return True

    def queries(self, rows: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the coordinates of queries.

        Parameters
        ----------
        rows : ndarray of shape (n_rows, n_features), dtype float32 or float64
            Queries.

        Returns
        -------
        ndarray of shape (n_rows, n_coordinates), dtype float32
            Their coordinates, C-contiguous; may be `rows` itself.
        """
        return self._padded(self._centered(rows, self._sized))

    def serves(self, coordinates: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return for which queries the distances of coordinates tell near from far.

        Parameters
        ----------
        coordinates : ndarray of shape (n_queries, n_coordinates), dtype float32
            Coordinates of queries.

        Returns
        -------
        ndarray of shape (n_queries,), dtype bool
            False for queries far beyond the items, and for a zero vector by an angle or a product,
            which has the same distance to all items.
        """
        served: NDArray[np.bool_] = np.abs(coordinates).max(axis=1) < self.reach
        if self.metric.name not in _PLAIN:
            served &= coordinates.any(axis=1)
        return served

    def _moved(self, rows: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return unit vectors, or vectors with the factors of the metric, scaled."""
        wide = rows.astype(np.float64, copy=False)
        if self.metric.name in ANGLES:
            units: NDArray[np.float64] = ANGLES[self.metric.name][0](wide)
            return units
        with np.errstate(over="ignore", under="ignore"):
            if self.exponent:
                # Finite, since infinity times a factor of 0 is NaN.
                wide = np.clip(np.ldexp(wide, -self.exponent), -_HUGE, _HUGE)
            return wide * self.metric.params["factor"] if "factor" in self.metric.params else wide

    def _sized(self, rows: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return what `_moved` does, for queries.

        The length of a query makes no difference to inner_product. With the length of the items,
        rounding errors are not larger than theirs.
        """
        moved = self._moved(rows)
        if self.metric.name != "inner_product":
            return moved
        return unit_rows(moved) * self.norm

    def _squares(self, rows: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the squared norms of items before they are centered."""
        moved = np.clip(self._moved(rows), -_LARGEST, _LARGEST)
        squares: NDArray[np.float64] = np.square(moved).sum(axis=1)
        return squares

    def _centered(self, rows: NDArray[np.floating], moved: Transform) -> NDArray[np.float32]:
        """Return the coordinates without the additional one."""
        unchanged = self.changes_nothing and rows.dtype == np.float32
        if unchanged and (not rows.size or np.abs(rows).max() < _LARGEST):
            return np.ascontiguousarray(rows)
        found = moved(rows)
        if self.center.any():
            found = found - self.center
        return np.ascontiguousarray(np.clip(found, -_LARGEST, _LARGEST), np.float32)

    def _padded(self, found: NDArray[np.float32]) -> NDArray[np.float32]:
        lacking = self.n_coordinates - found.shape[1]
        return np.pad(found, ((0, 0), (0, lacking))) if lacking else found

    def structure(self) -> dict[str, NDArray[Any]]:
        """Return the transform as arrays.

        Returns
        -------
        dict of str to ndarray
            The arrays, which are those of `expected`.
        """
        numbers = np.array([self.exponent, self.norm, self.reach], np.float64)
        return {"center": self.center, "scale": numbers}

    @staticmethod
    def expected(n_features: int) -> dict[str, Any]:
        """Return the dtypes and shapes of the arrays, see `structures.check_structure`.

        Parameters
        ----------
        n_features : int
            The dimension of the vectors.

        Returns
        -------
        dict of str to tuple
            Name -> dtype and shape.
        """
        return {"center": (np.float64, (n_features,)), "scale": (np.float64, (3,))}

    @classmethod
    def restored(
        cls, metric: Metric, n_features: int, structure: Mapping[str, NDArray[Any]]
    ) -> Coordinates:
        """Return the transform that `structure` was taken from.

        Parameters
        ----------
        metric : Metric
            The metric.
        n_features : int
            The dimension of the vectors.
        structure : mapping of str to ndarray
            Arrays, among them those of `expected`.

        Returns
        -------
        Coordinates
            The transform.

        Raises
        ------
        ValueError
            If an array is missing or damaged.
        """
        expected = cls.expected(n_features)
        parts = {name: structure[name] for name in expected if name in structure}
        check_structure(parts, expected)
        exponent, norm, reach = parts["scale"].tolist()
        if exponent != round(exponent) or abs(exponent) > _LARGEST_EXPONENT:
            raise damaged("scale", f"has exponent {exponent}")
        allowed = {"inner_product": norm > 0, **dict.fromkeys(ANGLES, norm in (0.0, 1.0))}
        if not allowed.get(metric.name, norm == 0.0):
            raise damaged("scale", f"has norm {norm}, which metric {metric.name!r} never has")
        if not 0 < reach <= _LARGEST:
            raise damaged("scale", f"has reach {reach}")
        return cls(metric, parts["center"], int(exponent), norm, reach)
