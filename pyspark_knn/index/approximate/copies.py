"""Equal items: a graph has one node for all of them, and a search adds the others.

The links of a node lead to its nearest neighbors. With a hundred copies of each item, these are
copies of the node itself, and no link leads anywhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Longs = NDArray[np.int64]

_BLOCK_FLOATS = 1 << 18
"""Numbers in the vectors that are compared at a time."""


def first_copies(matrix: NDArray[np.floating]) -> Longs:
    """Return for each item the position of the first item that is equal to it.

    Parameters
    ----------
    matrix : ndarray of shape (n_items, n_features), dtype float32 or float64
        The items.

    Returns
    -------
    ndarray of shape (n_items,), dtype int64
        The positions; an item's own where no item before it is equal. Among items of one hash
        some copies may be overlooked, which is improbable.
    """
    firsts = np.arange(len(matrix))
    hashes = np.concatenate([_hashes(matrix[part]) for part in _parts(matrix, len(matrix))])
    order = np.argsort(hashes, kind="stable")
    repeated = np.zeros(len(order), bool)
    repeated[1:] = hashes[order[1:]] == hashes[order[:-1]]
    # The sort is stable, so the first one of the items with one hash has the lowest position.
    leaders = order[np.maximum.accumulate(np.where(repeated, 0, firsts))][repeated]
    copies = order[repeated]
    for part in _parts(matrix, len(copies)):
        equal = (matrix[copies[part]] == matrix[leaders[part]]).all(axis=1)
        firsts[copies[part][equal]] = leaders[part][equal]
    return firsts


def _parts(matrix: NDArray[np.floating], count: int) -> Iterator[slice]:
    step = max(1, _BLOCK_FLOATS // matrix.shape[1])
    for start in range(0, count, step):
        yield slice(start, start + step)


def _hashes(rows: NDArray[np.floating]) -> NDArray[np.uint64]:
    """Return a number of each row; equal rows have equal numbers."""
    # Adding zero turns -0.0 to 0.0, which is equal to it.
    positive = rows + rows.dtype.type(0)
    words: NDArray[np.unsignedinteger] = positive.view(f"u{rows.itemsize}")
    # The last bits of round numbers are zeros, in which a product would lose the first ones.
    words = words ^ (words >> words.dtype.type(4 * rows.itemsize))
    factors = np.random.default_rng(0).integers(1 << 63, size=rows.shape[1], dtype=np.uint64)
    found: NDArray[np.uint64] = (words * (2 * factors + np.uint64(1))).sum(axis=1)
    return found


@dataclass(frozen=True, eq=False)
class Copies:
    """The items that are equal to a node.

    Attributes
    ----------
    nodes : ndarray of shape (n_nodes,), dtype int64
        The nodes with copies, in ascending order.
    offsets : ndarray of shape (n_nodes + 1,), dtype int64
        Where the items of each of these nodes begin, and where the last ones end.
    items : ndarray of shape (n_equal_items,), dtype int64
        The items that are equal to each node, with the node itself, in ascending order.
    """

    nodes: Longs
    offsets: Longs
    items: Longs

    @classmethod
    def of(cls, nodes: Longs) -> Copies | None:
        """Return the copies of all items, or None if there are none.

        Parameters
        ----------
        nodes : ndarray of shape (n_items,), dtype int64
            The node of each item, which is its own node.

        Returns
        -------
        Copies or None
            The copies.
        """
        counts = np.bincount(nodes, minlength=len(nodes))
        several = np.flatnonzero(counts > 1)
        if not several.size:
            return None
        items = np.flatnonzero(counts[nodes] > 1)
        items = items[np.argsort(nodes[items], kind="stable")]
        return cls(several, np.concatenate([[0], np.cumsum(counts[several])]), items)

    @property
    def nbytes(self) -> int:
        """The bytes of the arrays."""
        return self.nodes.nbytes + self.offsets.nbytes + self.items.nbytes

    def among(self, items: Longs) -> tuple[Longs, Longs]:
        """Return the nodes all of whose items are among some items, and these items of theirs.

        Parameters
        ----------
        items : ndarray of shape (n_items,), dtype int64
            Items, in ascending order.

        Returns
        -------
        tuple of ndarray, dtype int64
            The nodes and the items, in ascending order.
        """
        single = items[~np.isin(items, self.items)]
        sizes = np.diff(self.offsets)
        counts = np.concatenate([[0], np.cumsum(np.isin(self.items, items))])[self.offsets]
        whole = np.diff(counts) == sizes
        nodes = np.concatenate([single, self.nodes[whole]])
        return np.sort(nodes), np.sort(np.concatenate([single, self.items[whole.repeat(sizes)]]))

    def added(self, table: Longs, most: int) -> Longs:
        """Add the copies of nodes that a search has found.

        Parameters
        ----------
        table : ndarray of shape (n_queries, n_found), dtype int64
            The nodes, nearest first; -1 where there is none, and then in the rest of the row.
        most : int
            The number of items of a query that the caller needs.

        Returns
        -------
        ndarray of shape (n_queries, n_items), dtype int64
            The nodes and their copies. Those beyond the first `most` items of a query may be
            missing; of the copies of a node, these are the ones with the highest positions.
        """
        place = np.minimum(np.searchsorted(self.nodes, table), len(self.nodes) - 1)
        copied = self.nodes[place] == table
        if not copied.any():
            return table
        counts = (table >= 0).astype(np.int64)
        counts[copied] = np.minimum(np.diff(self.offsets)[place[copied]], most)
        before = np.cumsum(counts, axis=1) - counts
        counts[before >= most] = 0
        width, kept = int(counts.sum(axis=1).max()), counts.ravel()
        rows = np.repeat(np.arange(len(table)), counts.sum(axis=1))
        within = np.arange(kept.sum()) - np.repeat(np.cumsum(kept) - kept, kept)
        places = np.repeat(self.offsets[place].ravel(), kept) + within
        found = np.repeat(table.ravel(), kept)
        several = np.repeat(copied.ravel(), kept)
        found[several] = self.items[places[several]]
        result = np.full((len(table), width), -1, np.int64)
        result[rows, np.repeat(before.ravel(), kept) + within] = found
        return result
