"""The factors of queries in the products that `pyspark_knn.index.missing.space` describes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Queries(NamedTuple):
    """Queries in a `MissingSpace`.

    Attributes
    ----------
    vectors : ndarray of shape (n_queries, n_features), dtype float64
        The transformed queries, 0 where a value is missing.
    present : ndarray of shape (n_queries, n_features), dtype bool
        Which values are there.
    lengths : ndarray of shape (n_queries,), dtype float64
        The norms of the vectors.
    lacking : ndarray of shape (n_features,), dtype bool
        The features that some query lacks.
    """

    vectors: NDArray[np.float64]
    present: NDArray[np.bool_]
    lengths: NDArray[np.float64]
    lacking: NDArray[np.bool_]

    def take(self, rows: NDArray[np.int64]) -> Queries:
        """Return some of the queries; `lacking` stays that of all."""
        return Queries(self.vectors[rows], self.present[rows], self.lengths[rows], self.lacking)


class QueryFactors:
    """The factors of queries in products whose signs say which items are within a distance.

    Parameters
    ----------
    queries : Queries
        The queries.
    lacking : ndarray of shape (n_features,), dtype bool
        The features that some item lacks.
    rho : float
        The bound on the relative error of a product.
    dtype : type
        The dtype of the products.

    Attributes
    ----------
    factors : ndarray of shape (n_queries, n_columns)
        The factors: zeros, so that no product is above 0, until `demand` is called.
    """

    def __init__(
        self,
        queries: Queries,
        lacking: NDArray[np.bool_],
        rho: float,
        dtype: type[np.floating],
    ) -> None:
        self._queries = queries
        self._lacking = lacking
        self._rho = rho
        self._masks, self._plain, self._squares = columns(lacking, queries.lacking)
        shape = len(queries.vectors), self._squares.stop + 2
        self.factors: NDArray[np.floating] = np.zeros(shape, dtype)

    def demand(self, reaches: NDArray[np.float64], rows: NDArray[np.int64] | None = None) -> None:
        """Set the factors of some queries.

        Parameters
        ----------
        reaches : ndarray of shape (n_rows,), dtype float64
            The t of these queries; -1 for a query without candidates.
        rows : ndarray of shape (n_rows,), dtype int64, optional
            The row numbers of the queries. Default: all of them.
        """
        where: Any = slice(None) if rows is None else rows
        factors = self._made(reaches, where, 1.0 - self._rho)
        factors[reaches < 0] = 0.0
        self.factors[where] = factors

    def sums(self) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Return the factors of two products: one that is at most -S, and one that is c.

        Returns
        -------
        sums, counts : ndarray of shape (n_queries, n_columns)
            The factors.
        """
        zeros = np.zeros(len(self.factors))
        sums = self._made(zeros, slice(None), 1.0 + self._rho)
        counts = np.zeros_like(self.factors)
        self._fill_masks(counts, self._queries.present.astype(np.float64))
        return sums, counts

    def _made(self, reaches: NDArray[np.float64], where: Any, alpha: float) -> NDArray[np.floating]:
        vectors, present = self._queries.vectors[where], self._queries.present[where]
        factors = np.empty((len(vectors), self.factors.shape[1]), self.factors.dtype)
        self._fill_masks(factors, (reaches[:, None] - alpha * vectors * vectors) * present)
        np.multiply(vectors, 2.0, out=factors[:, self._plain], casting="same_kind")
        factors[:, self._squares] = present[:, chosen(self._queries.lacking)] * -alpha
        factors[:, -1] = -alpha
        return factors

    def _fill_masks(self, factors: NDArray[np.floating], terms: NDArray[np.float64]) -> None:
        """Write the factors of the items' masks."""
        factors[:, self._masks] = terms[:, chosen(self._lacking)]
        factors[:, -2] = terms[:, ~self._lacking].sum(axis=1)


def columns(
    items_lack: NDArray[np.bool_], queries_lack: NDArray[np.bool_]
) -> tuple[slice, slice, slice]:
    """Return the columns of the items' masks, of their values, and of the squares of these.

    Two more columns follow: the sums of the masks and of the squares that have no column.

    Parameters
    ----------
    items_lack, queries_lack : ndarray of shape (n_features,), dtype bool
        The features that some item lacks, and those that some query lacks.

    Returns
    -------
    masks, plain, squares : slice
        The columns.
    """
    first = int(np.count_nonzero(items_lack))
    second = first + len(items_lack)
    third = second + int(np.count_nonzero(queries_lack))
    return slice(0, first), slice(first, second), slice(second, third)


def chosen(lacking: NDArray[np.bool_]) -> Any:
    """Return an index of the columns where an ndarray of shape (n_columns,), dtype bool, is True.

    It is a slice if these are all of the columns, since a slice copies nothing.
    """
    return slice(None) if lacking.all() else lacking
