"""The graph of an HNSW index as plain arrays, and the checks that make it safe to search.

FAISS follows a link without looking where it leads, so nothing reaches FAISS that was not checked
here. The module needs neither FAISS nor the vectors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pyspark_knn.index.approximate.structures import check_range, damaged

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    Longs = NDArray[np.int64]

NOBODY = -1
"""Pads the links of a node. FAISS stops at the first one."""

_PART_NODES = 1 << 16
"""The nodes whose links are processed at once: with 32 links each, about 50 MiB."""

MOST_LINKS = 1024
"""The largest `Graph.m`."""

_LEAST_SHARE = 1e-8
"""The expected share of the nodes on the highest possible level. FAISS's own limit is 1e-9."""


def most_levels(m: int) -> int:
    """Return the largest number of levels of a node, so that FAISS has links for each of them."""
    return 1 + math.floor(math.log((1 - 1 / m) / _LEAST_SHARE) / math.log(m))


def drawn_levels(count: int, m: int, seed: list[int]) -> NDArray[np.uint8]:
    """Draw the number of levels of new nodes: each level has 1 / m of the nodes of the one below.

    Parameters
    ----------
    count : int
        The number of nodes.
    m : int
        The links of a node on each level but the lowest, which has twice as many.
    seed : list of int
        The seed.

    Returns
    -------
    ndarray of shape (count,), dtype uint8
        The numbers of levels, at least 1.
    """
    uniform = np.random.default_rng(seed).random(count)
    levels = 1 + np.floor(-np.log1p(-uniform) / math.log(m))
    drawn: NDArray[np.uint8] = np.minimum(levels, most_levels(m)).astype(np.uint8)
    return drawn


@dataclass(frozen=True, eq=False)
class Graph:
    """The links of an HNSW graph over the items of an index.

    Attributes
    ----------
    m : int
        The links of a node on each level but the lowest, which has twice as many; at least 2.
    entry : int
        The node where a search begins, one of those with the most levels.
    levels : ndarray of shape (n_items,), dtype uint8
        The number of levels of each node; 0 for an item that is not a node.
    links : ndarray of shape (n_links,), dtype int32
        The links of all nodes, one after the other, those of a node from the lowest level up. The
        links of a level are padded with `NOBODY`.
    """

    m: int
    entry: int
    levels: NDArray[np.uint8]
    links: NDArray[np.int32]

    @property
    def nbytes(self) -> int:
        """The bytes of the arrays."""
        return self.levels.nbytes + self.links.nbytes

    @property
    def nodes(self) -> Longs:
        """The items that are nodes, in ascending order."""
        return np.flatnonzero(self.levels)

    def offsets(self) -> Longs:
        """Return where the links of each item begin, and where the last ones end."""
        offsets = np.zeros(len(self.levels) + 1, np.int64)
        np.cumsum(self._widths(), out=offsets[1:])
        return offsets

    def _widths(self) -> Longs:
        """Return the number of places for links of each item."""
        return self.m * (self.levels.astype(np.int64) + (self.levels > 0))

    def structure(self) -> dict[str, NDArray[Any]]:
        """Return the graph as arrays.

        Returns
        -------
        dict of str to ndarray
            The arrays, which are those of `expected`.
        """
        head = np.array([self.m, self.entry], np.int64)
        return {"graph": head, "levels": self.levels, "links": self.links}

    @staticmethod
    def expected(n_items: int) -> dict[str, Any]:
        """Return the dtypes and shapes of the arrays, see `structures.check_structure`.

        Parameters
        ----------
        n_items : int
            The number of items.

        Returns
        -------
        dict of str to tuple
            Name -> dtype and shape.
        """
        return {
            "graph": (np.int64, (2,)),
            "levels": (np.uint8, (n_items,)),
            "links": (np.int32, (None,)),
        }

    @classmethod
    def restored(cls, structure: Mapping[str, NDArray[Any]]) -> Graph:
        """Return the graph that `structure` was taken from.

        Parameters
        ----------
        structure : mapping of str to ndarray
            Arrays, among them those of `expected`, whose dtypes and shapes are checked.

        Returns
        -------
        Graph
            The graph. Every search in it ends, and reads nothing but its arrays.

        Raises
        ------
        ValueError
            If an array is damaged.
        """
        m, entry = (int(each) for each in structure["graph"])
        if not 2 <= m <= MOST_LINKS:
            raise damaged("graph", f"has M {m}")
        graph = cls(m, entry, structure["levels"], structure["links"])
        graph._check_levels()
        graph._check_links()
        return graph

    def _check_levels(self) -> None:
        highest = int(self.levels.max())
        if not 1 <= highest <= most_levels(self.m):
            raise damaged("levels", f"has {highest} levels")
        if not 0 <= self.entry < len(self.levels):
            raise damaged("graph", f"starts at item {self.entry} of {len(self.levels)}")
        if self.levels[self.entry] != highest:
            raise damaged("graph", f"starts at item {self.entry}, which lacks the highest level")

    def _check_links(self) -> None:
        """Check that each link leads to a node that has the level of the link."""
        expected = int(self._widths().sum())
        if self.links.size != expected:
            raise damaged("links", f"must have {expected} integers, got {self.links.size}")
        check_range("links", self.links, NOBODY, len(self.levels))
        for level, _, links in self.parts():
            if (self.levels[links[links != NOBODY]] <= level).any():
                raise damaged("links", f"leads to an item that is not on level {level}")

    def parts(self) -> Iterator[tuple[int, Longs, NDArray[np.int32]]]:
        """Yield the links level by level, and those of a level in parts.

        Yields
        ------
        tuple of (int, ndarray of shape (n_nodes, width), ndarray of the same shape)
            The level, from 0 up, the places of the links of some of its nodes, and the links.
        """
        starts = self.offsets()[:-1]
        for level in range(int(self.levels.max(initial=0))):
            begin, width = (0, 2 * self.m) if level == 0 else (self.m * (level + 1), self.m)
            first = starts[self.levels > level] + begin
            for start in range(0, len(first), _PART_NODES):
                places = first[start : start + _PART_NODES, None] + np.arange(width)
                yield level, places, self.links[places]

    def without(self, nodes: Longs) -> Graph:
        """Return the graph without the links to some of its nodes, which no search finds then.

        Parameters
        ----------
        nodes : ndarray of shape (n_left_out,), dtype int64
            The nodes, not all of them.

        Returns
        -------
        Graph
            The graph. The links of each node are moved together, and a search begins at another
            node if it began at one of these.
        """
        hidden = np.zeros(len(self.levels), bool)
        hidden[nodes] = True
        links = np.array(self.links)
        for _, places, old in self.parts():
            kept = np.where(hidden[old], NOBODY, old)
            order = np.argsort(kept == NOBODY, axis=1, kind="stable")
            links[places] = np.take_along_axis(kept, order, 1)
        entry = self.entry
        if hidden[entry]:
            entry = int(np.where(hidden, 0, self.levels).argmax())
        return Graph(self.m, entry, self.levels, links)

    def moved(self, positions: Longs, n_items: int) -> Graph:
        """Return the same graph over items among which the old ones have other positions.

        Parameters
        ----------
        positions : ndarray of shape (n_old_items,), dtype int64
            The new position of each item, each of them once, in any order.
        n_items : int
            The number of items then. The others are not nodes.

        Returns
        -------
        Graph
            The graph.
        """
        levels = np.zeros(n_items, np.uint8)
        levels[positions] = self.levels
        targets = np.append(positions, NOBODY).astype(np.int32)
        moved = Graph(self.m, int(positions[self.entry]), levels, np.empty_like(self.links))
        starts, ends = self.offsets()[:-1], moved.offsets()[positions]
        for start in range(0, len(self.levels), _PART_NODES):
            part = slice(start, start + _PART_NODES)
            widths = self._widths()[part]
            within = np.arange(widths.sum()) - np.repeat(np.cumsum(widths) - widths, widths)
            links = self.links[np.repeat(starts[part], widths) + within]
            moved.links[np.repeat(ends[part], widths) + within] = targets[links]
        return moved

    def compact(self) -> Graph:
        """Return the graph over its nodes alone, numbered in their order."""
        nodes = self.nodes
        if len(nodes) == len(self.levels):
            return self
        numbers = np.full(len(self.levels) + 1, NOBODY, np.int32)
        numbers[nodes] = np.arange(len(nodes))
        return Graph(self.m, int(numbers[self.entry]), self.levels[nodes], numbers[self.links])
