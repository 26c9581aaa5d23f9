"""What the shards of an index are: those of its fit, and those of each append."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.engine.shards.key_shards import KeyShards
from pyspark_knn.index.cells import Cells, ShardAssignment
from pyspark_knn.index.spreads import apart_of, pivots_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.engine.shards.saved_layout import SavedLayout
    from pyspark_knn.engine.ship.shard_rows import Shard

_SAMPLED = 256
"""About how many items show where queries are: enough, since only a mean is needed."""


@dataclass(frozen=True)
class ShardSeries:
    """The shards that one fit or one append built.

    Attributes
    ----------
    first, count : int
        The number of the first shard, and how many there are, the empty ones included.
    dtype : numpy dtype
        The type of the vectors of these items.
    assignment : ShardAssignment or KeyShards or SavedLayout or None
        The cells that the shards consist of, the shards of keys, or those of all series of a saved
        model; None if items were assigned to shards by their ids.
    """

    first: int
    count: int
    dtype: np.dtype[np.floating]
    assignment: ShardAssignment | KeyShards | SavedLayout | None = None


def slots(series: Sequence[ShardSeries]) -> int:
    """Return the number of shards, the empty ones included."""
    return series[-1].first + series[-1].count


def key_shards(series: Sequence[ShardSeries]) -> tuple[KeyShards, ...]:
    """Return the shards of keys; empty if there are no keys."""
    return tuple(each.assignment for each in series if isinstance(each.assignment, KeyShards))


def cells_of(series: Sequence[ShardSeries], shards: Sequence[Shard]) -> Cells | None:
    """Return the cells of the shards that have items; None if shards are not cells.

    The shards of an append have the same centers as those of the fit, but radii of their own.
    """
    cuts = [each.assignment for each in series if isinstance(each.assignment, ShardAssignment)]
    if not cuts:
        return None
    numbers = np.array([shard.shard for shard in shards])
    radii = np.array([shard.radius for shard in shards], np.float64)
    cells = np.concatenate([cut.shard_cells() for cut in cuts])[numbers]
    centers = cuts[0].centers[cells]
    ranks = [shard.ranks or [np.inf] for shard in shards]
    pivots = pivots_of(centers, ranks, [shard.sample or [] for shard in shards])
    return Cells(numbers, centers, radii, cuts[0].metric, cells, pivots)


def sample_of(shards: Sequence[Shard], n_features: int) -> NDArray[np.float64]:
    """Return a few items of shards that are cells.

    Parameters
    ----------
    shards : sequence of Shard
        The shards.
    n_features : int
        The dimension of the vectors.

    Returns
    -------
    ndarray of shape (n_sampled, n_features), dtype float64
        The items.
    """
    sample = apart_of([shard.sample or [] for shard in shards], n_features)
    return sample[:: max(1, len(sample) // _SAMPLED)]


def is_outgrown(
    *,
    shards: int,
    refit_shards: int,
    appended_shards: int,
    items: int,
    appended_items: int,
    cells: int,
) -> bool:
    """Return whether searches would be faster if all items were divided into shards again.

    Parameters
    ----------
    shards, refit_shards, appended_shards : int
        The number of shards that have items, of those that a fit would build, and of those that
        were appended.
    items, appended_items : int
        The number of items, and of those that were appended.
    cells : int
        The number of cells that the shards are; 0 if they are not cells.
    """
    # The centers of cells are those of the items of the fit.
    outdated = cells > 0 and 2 * appended_items > items
    return appended_shards > 0 and (shards > 2 * refit_shards or outdated)
