"""Exact search by nan_euclidean: brute force by products, without the effect of their rounding.

Products in float32 rule out most items (see `pyspark_knn.index.missing.space`). The distances of
the others are computed soon after they are found, which lowers the limits for the items that
follow. A query of which too many items turn out to be too far is *crowded*: from there on it is
compared by products in float64. Queries whose products could overflow are compared pair by pair.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np

from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.brute_force import BruteForce
from pyspark_knn.index.found import Exclusion, Neighbors
from pyspark_knn.index.missing.blocks import SignBlocks
from pyspark_knn.index.missing.space import MissingSpace
from pyspark_knn.index.pairwise import PairwiseSearch, search_rest
from pyspark_knn.index.selection import NearestSoFar, exclusion_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from pyspark_knn.index.distances import Metric
    from pyspark_knn.index.hits import Hits

_BATCH_QUERIES = 1024
"""Queries in a batch. With many of them the cost of preparing the items of a block is small."""

_BATCH_FLOATS = 1 << 22
"""Numbers in the factors of a batch of queries."""

_FIRST_ITEMS = 1024
"""Items that are compared first, for the first limits; at least 2 k."""

_FIRST_RATIOS = 1 << 20
"""Numbers of a batch of queries with the first items."""

_RANKED_PER_QUERY = 4
"""Candidates for each query that wait until their distances are computed. Fewer would not be worth
the time that each call takes, and with more the limits are lowered too late."""

_SPARE_CANDIDATES = 64
"""Candidates of a query that may turn out to be too far, regardless of their cost."""

_PRODUCTS_PER_RANK = 128
"""Items whose float64 products take as long as the distance of one candidate."""


class MissingSearch(BruteForce):
    """Brute-force search by nan_euclidean.

    Parameters
    ----------
    matrix : ndarray of shape (n_items, n_features), dtype float32 or float64
        The items; NaN is a missing value.
    metric : Metric
        The metric nan_euclidean.
    space : MissingSpace
        The space of these items.
    """

    metrics: ClassVar[frozenset[str]] = frozenset({"nan_euclidean"})

    def __init__(self, matrix: NDArray[np.floating], metric: Metric, space: MissingSpace) -> None:
        super().__init__(matrix, metric)
        self._space = space

    @classmethod
    def build(cls, matrix: NDArray[np.floating], spec: IndexSpec) -> MissingSearch:
        """Return an index that keeps the items as they are, and knows their sizes."""
        return cls(matrix, spec.metric, MissingSpace(spec.metric, matrix))

    def kneighbors(
        self,
        queries: NDArray[np.floating],
        k: int,
        *,
        max_distance: float | None = None,
        exclude: Exclusion | None = None,
    ) -> Neighbors:
        """See `NeighborIndex.kneighbors`."""
        best = NearestSoFar(len(queries), k, max_distance)
        rest = np.arange(len(queries))
        if 4 * k <= len(self._matrix):
            rest = _Search(self, queries, exclude, _Nearest(best)).run()
        search_rest(self, queries, rest, best, max_distance, exclude)
        return best.neighbors()

    def _find_within(
        self, queries: NDArray[np.floating], exclude: Exclusion | None, hits: Hits
    ) -> None:
        rest = _Search(self, queries, exclude, _Within(hits)).run()
        PairwiseSearch(self._matrix, self._metric).compare_all(queries, rest, exclude, hits)


class _Wanted(Protocol):
    """What a search looks for: the k nearest items, or all within a distance."""

    @property
    def k(self) -> int | None:
        """The number of neighbors; None for all within the distance."""

    def first(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the first position that an item of each of some queries can have."""

    def limits(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the largest distance of an item that is still wanted; -1 if none is."""

    def offer(
        self,
        rows: NDArray[np.int64],
        positions: NDArray[np.int64],
        distances: NDArray[np.float64],
    ) -> None:
        """Take the pairs that are wanted."""


class _Nearest:
    """The k nearest items of each query."""

    def __init__(self, best: NearestSoFar) -> None:
        self._best = best
        self.k = best.distances.shape[1]
        self.offer = best.offer

    def first(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.zeros(len(rows), np.int64)

    def limits(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        # Blocks are in ascending order of position, so k items at distance 0 are the answer.
        done = self._best.distances[rows, -1] == 0
        return np.where(done, -1.0, self._best.limits()[rows])


class _Within:
    """All items within a distance of each query."""

    k = None

    def __init__(self, hits: Hits) -> None:
        self._hits = hits
        self.offer = hits.offer

    def first(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._hits.firsts(rows)

    def limits(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.full(len(rows), self._hits.limit)


class _Search:
    """One call of `kneighbors` or `within`."""

    def __init__(
        self,
        index: MissingSearch,
        queries: NDArray[np.floating],
        exclude: Exclusion | None,
        wanted: _Wanted,
    ) -> None:
        self._matrix = index._matrix
        self._metric = index._metric
        self._space = index._space
        self._queries = queries
        self._exclude = exclude
        self._wanted = wanted
        # The position from which on each query is to be compared, and a limit beyond `wanted`.
        self._first = wanted.first(np.arange(len(queries)))
        self._limits = np.full(len(queries), np.inf)

    def run(self) -> NDArray[np.int64]:
        """Search all queries except those for which the bounds do not hold; return their rows."""
        served = np.ones(len(self._queries), bool)
        for rows in self._batches(np.arange(len(served)), np.float32):
            served[rows] = self._space.serves(self._space.queries(self._queries[rows]))
        left = np.flatnonzero(served)
        for dtype in self._space.dtypes:
            left = self._search_all(left, dtype)
        return np.flatnonzero(~served)

    def _batches(
        self, rows: NDArray[np.int64], dtype: type[np.floating]
    ) -> Iterator[NDArray[np.int64]]:
        """Yield `rows` in parts, as many queries as are searched at a time."""
        n_columns = 3 * self._queries.shape[1] + 2
        most = min(_BATCH_QUERIES, _BATCH_FLOATS // n_columns)
        if self._wanted.k is not None:
            most = min(most, _FIRST_RATIOS // self._first_items)
        step = max(1, most * 4 // np.dtype(dtype).itemsize)
        for start in range(0, len(rows), step):
            yield rows[start : start + step]

    @property
    def _first_items(self) -> int:
        return min(len(self._matrix), max(_FIRST_ITEMS, 2 * (self._wanted.k or 0)))

    def _search_all(self, rows: NDArray[np.int64], dtype: type[np.floating]) -> NDArray[np.int64]:
        """Search queries by products in a dtype; return those that are not finished."""
        last = dtype is self._space.dtypes[-1]
        worthwhile = True
        left = []
        for batch in self._batches(rows, dtype):
            crowded = batch
            if last or worthwhile:
                crowded = self._search(batch, dtype, last=last)
                worthwhile = 2 * len(crowded) <= len(batch)
            left.append(crowded)
        return np.concatenate(left) if left else rows

    def _search(
        self, rows: NDArray[np.int64], dtype: type[np.floating], *, last: bool
    ) -> NDArray[np.int64]:
        """Search a batch; return the queries that are crowded, unless this dtype is the last."""
        queries = self._space.queries(self._queries[rows])
        exclude = exclusion_of(self._exclude, rows)
        blocks = SignBlocks(self._matrix, self._space, queries, dtype, exclude)
        if self._wanted.k is not None and np.isinf(self._limits_of(rows)).any():
            first_limits = blocks.kth_limits(self._wanted.k, self._first_items)
            self._limits[rows] = np.minimum(self._limits[rows], first_limits)
        limits = self._limits_of(rows)
        blocks.demand(limits)
        waiting = _Waiting(self._first[rows])
        misses, crowded = np.zeros(len(rows), np.int64), np.zeros(len(rows), bool)
        for stop, at, positions in blocks.pairs(int(waiting.first.min())):
            waiting.add(at, positions)
            if waiting.count < _RANKED_PER_QUERY * len(rows) and stop < len(self._matrix):
                continue
            before = limits
            misses += self._rank(rows, *waiting.taken())
            limits = self._limits_of(rows)
            if not last:
                room = _SPARE_CANDIDATES + 2 * (self._wanted.k or 0) + stop // _PRODUCTS_PER_RANK
                new = (misses > room) & (limits >= 0) & ~crowded
                self._first[rows[new]] = stop
                crowded |= new
                limits[crowded] = -1.0
                if crowded.all():
                    break
            changed = np.flatnonzero(limits != before)
            blocks.demand(limits[changed], changed)
        return rows[crowded]

    def _limits_of(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        limits: NDArray[np.float64] = np.minimum(self._limits[rows], self._wanted.limits(rows))
        return limits

    def _rank(
        self, rows: NDArray[np.int64], at: NDArray[np.int64], positions: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Offer the pairs of a batch; return how many of each query turned out to be too far."""
        distances = self._metric.distances(self._queries, self._matrix, rows[at], positions)
        self._wanted.offer(rows[at], positions, distances)
        far = ~(distances <= self._limits_of(rows)[at])
        return np.bincount(at[far], minlength=len(rows))


class _Waiting:
    """Candidates of a batch whose distances are not computed yet.

    Parameters
    ----------
    first : ndarray of shape (n_queries,), dtype int64
        The position of the first item that is a candidate of each query.
    """

    def __init__(self, first: NDArray[np.int64]) -> None:
        self.first = first
        self.count = 0
        self._pairs: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []

    def add(self, rows: NDArray[np.int64], positions: NDArray[np.int64]) -> None:
        """Add candidates; those before the first position of their query are ignored."""
        later = positions >= self.first[rows]
        if not later.all():
            rows, positions = rows[later], positions[later]
        self.count += len(rows)
        self._pairs.append((rows, positions))

    def taken(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Remove and return all candidates."""
        rows, positions = map(np.concatenate, zip(*self._pairs, strict=True))
        self._pairs, self.count = [], 0
        return rows, positions
