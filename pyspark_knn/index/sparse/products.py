"""Products of sparse queries with a block of sparse items.

A product of two sparse matrices spends most of its time on finding places in its result. So each
query gets a dense row of products with a block of items: the block is transposed once for a batch
of queries, so that the values of its items at one feature stand together, and a query adds those at
its own features, and no others, to its row. The rows of a block stay within the processor's cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.index.sparse.rows import ranges

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.sparse.rows import SparseRows
    from pyspark_knn.index.sparse.sizes import Sizes


@dataclass(frozen=True)
class Group:
    """Some queries of a batch.

    Attributes
    ----------
    number : int
        The number of the group in its batch.
    queries : slice
        Which queries of the batch they are.
    columns : ndarray of shape (n_queries, longest), dtype int64
        The features of each query, as numbers of the batch, in descending order. Rows of fewer
        features end with the number of features of the batch, which is that of no feature.
    weights : ndarray of shape (n_queries, 2 * longest - 1), dtype float32 or float64
        Their values, with a zero between any two.
    """

    number: int
    queries: slice
    columns: NDArray[np.int64]
    weights: NDArray[np.floating]

    @property
    def bounds(self) -> tuple[int, int]:
        """The first query of the group, and the one after its last."""
        return self.queries.start, self.queries.stop


class SparseBatch:
    """A batch of queries, ready to be multiplied with blocks of items.

    Parameters
    ----------
    queries : SparseRows
        The transformed queries of the batch.
    dtype : type
        The type of the products, float32 or float64.
    sizes : Sizes
        The sizes of a group.
    """

    def __init__(self, queries: SparseRows, dtype: type[np.floating], sizes: Sizes) -> None:
        queries = queries.compact()
        self.dtype = dtype
        self.features = np.unique(queries.indices)[::-1]
        last = len(self.features) - 1
        number = last - np.searchsorted(self.features[::-1], queries.indices)
        value = queries.data.astype(dtype)
        self.groups: list[Group] = []
        for part in sizes.groups(queries.lengths):
            lengths = queries.lengths[part]
            stored = slice(queries.indptr[part.start], queries.indptr[part.stop])
            row = np.repeat(np.arange(len(lengths)), lengths)
            at = row, ranges(np.zeros(len(lengths), np.int64), lengths)
            longest = max(1, int(lengths.max()))
            columns = np.full((len(lengths), longest), len(self.features))
            columns[at] = number[stored]
            weights = np.zeros((len(lengths), 2 * longest), dtype)
            weights[:, ::2][at] = value[stored]
            self.groups.append(Group(len(self.groups), part, columns, weights[:, :-1]))

    def numbers(self, n_columns: int) -> NDArray[np.int32]:
        """Return the number of each column among those of the batch, -1 if it is not used."""
        numbers = np.full(n_columns, -1, np.int32)
        numbers[self.features] = np.arange(len(self.features), dtype=np.int32)
        return numbers


class TransposedBlock:
    """The values of some items at the features of a batch, in the order of the features.

    Parameters
    ----------
    items : SparseRows
        The transformed items.
    numbers : ndarray of shape (n_columns,), dtype int32
        See `SparseBatch.numbers`.
    batch : SparseBatch
        The batch.
    """

    def __init__(self, items: SparseRows, numbers: NDArray[np.int32], batch: SparseBatch) -> None:
        from scipy.sparse import csr_array

        items = items.compact()
        number = numbers[items.indices]
        kept = np.flatnonzero(number >= 0)
        before = np.searchsorted(kept, items.indptr)
        values = items.data[kept].astype(batch.dtype, copy=False)
        shape = len(items), len(batch.features)
        self._values = csr_array((values, number[kept], before), shape).tocsc()
        # The last ones are those of no feature.
        self._starts = np.append(self._values.indptr[:-1], self._values.indptr.dtype.type(0))
        self._stops = np.append(self._values.indptr[1:], self._values.indptr.dtype.type(0))

    def products(self, group: Group) -> NDArray[np.floating]:
        """Return the products with the queries of a group: shape (n_queries, n_items).

        scipy multiplies a matrix in the order of its columns, of which column j has the values from
        ``indptr[j]`` to ``indptr[j + 1]``. With the bounds of a query's features as `indptr`, every
        other column is a feature. The columns between them are empty, since features are in
        descending order: a column that ends before it begins has no values. So nothing is copied.
        """
        n_queries, longest = group.columns.shape
        bounds = np.empty((n_queries, 2 * longest), self._starts.dtype)
        bounds[:, ::2], bounds[:, 1::2] = self._starts[group.columns], self._stops[group.columns]
        values = self._values
        shape = values.shape[0], 2 * longest - 1
        result = np.zeros((n_queries, shape[0]), values.dtype)
        add_product = _product_adder()
        for indptr, weights, products in zip(bounds, group.weights, result, strict=True):
            add_product(*shape, indptr, values.indices, values.data, weights, products)
        return result


def _product_adder() -> Callable[..., None]:
    """Return what adds the product of a matrix in the layout of csc_array with a vector to another.

    It is what `csc_array.__matmul__` calls, which takes several times as long as the product of a
    short query: half of the time of a search of 20,000 items, and a third with 500,000.
    """
    try:
        from scipy.sparse._sparsetools import csc_matvec
    except ImportError:
        return _add_product
    adder: Callable[..., None] = csc_matvec
    return adder


def _add_product(
    n_rows: int,
    n_columns: int,
    indptr: NDArray[np.integer],
    indices: NDArray[np.integer],
    data: NDArray[np.floating],
    vector: NDArray[np.floating],
    result: NDArray[np.floating],
) -> None:
    """Do the same by scipy's public methods, should its internal module be gone."""
    from scipy.sparse import csc_array

    matrix = csc_array((n_rows, n_columns), dtype=data.dtype)
    # Not by the constructor, which refuses columns that end before they begin.
    matrix.data, matrix.indices, matrix.indptr = data, indices, indptr
    result += matrix @ vector
