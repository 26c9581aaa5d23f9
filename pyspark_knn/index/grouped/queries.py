"""Queries, and the groups of items that they are compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class GroupQueries:
    """Queries of a `GroupedIndex`. Slices of it are queries too.

    Attributes
    ----------
    vectors : ndarray or SparseRows of shape (n_queries, n_features), dtype float32 or float64
        The queries, as the index stores vectors: finite, C-contiguous if dense; may be read-only,
        and may have zero rows.
    rows, groups : ndarray of shape (n_visits,), dtype int64
        The groups of the queries: query ``rows[i]`` is compared with the items of group
        ``groups[i]``. Rows are in ascending order, and no pair occurs twice. A query may have any
        number of groups.
    """

    vectors: Any
    rows: NDArray[np.int64]
    groups: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, where: slice) -> GroupQueries:
        start, stop, _ = where.indices(len(self))
        first, last = np.searchsorted(self.rows, [start, stop])
        visits = slice(first, last)
        return GroupQueries(
            self.vectors[start:stop], self.rows[visits] - start, self.groups[visits]
        )
