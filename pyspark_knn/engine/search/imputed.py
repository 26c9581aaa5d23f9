"""The values of missing features: the search of their donors, and the merge of those of shards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import types as T

from pyspark_knn.engine.search.answers import DISTANCE, MergedSearch, OwnSearch
from pyspark_knn.engine.search.merge import nearest_of
from pyspark_knn.engine.search.searchable import Searchable
from pyspark_knn.engine.spark.arrow import list_offsets
from pyspark_knn.index.donors import Donors, donated_means, find_donors

if TYPE_CHECKING:
    from pyspark_knn.index.base import NeighborIndex

FEATURE = "feature"
"""In the lists of a shard: the feature that a donor has and the query lacks."""

VALUE = "donated"
"""In the lists of a shard: the value of the feature."""


@dataclass(frozen=True)
class Imputed(MergedSearch):
    """A list for each query: the imputed values of its missing features.

    The list has an element for each feature, which counts only where the query lacks the feature.
    It is empty if the query lacks none.

    Attributes
    ----------
    result_type : StructType
        The output column, an array of double.
    k : int
        The number of donors of a value.
    weights : {"uniform", "distance"}
        The weight of a donor.
    otherwise : tuple of float
        The value of each feature for a query without donors of it.
    """

    result_type: T.StructType
    k: int
    weights: str
    otherwise: tuple[float, ...]

    @property
    def width(self) -> int:
        """See `OwnSearch.width`: k donors of each feature."""
        return self.k * len(self.otherwise)

    def search(self, searchable: Searchable, queries: NDArray[np.floating]) -> pa.StructArray:
        """See `OwnSearch.search`."""
        wanted = np.isnan(queries).any(axis=1)
        donors = find_donors(_index(searchable), queries[wanted], self.k)
        return self._struct(wanted, donors)

    def shard_lists(self, item_columns: Mapping[str, T.DataType]) -> dict[str, T.DataType]:
        """See `MergedSearch.shard_lists`: the donors, and what breaks ties among them."""
        types = {FEATURE: T.IntegerType(), DISTANCE: T.DoubleType(), **item_columns}
        types[VALUE] = T.DoubleType()
        return {name: T.ArrayType(kind) for name, kind in types.items()}

    def in_shard(self, result_type: T.StructType) -> DonorLists:
        """See `MergedSearch.in_shard`."""
        return DonorLists(result_type, self.k, len(self.otherwise))

    def merged(self, lists: dict[str, pa.ListArray]) -> pa.StructArray:
        """See `MergedSearch.merged`."""
        lengths = lists[DISTANCE].value_lengths().to_numpy(zero_copy_only=False)
        query = np.repeat(np.arange(len(lengths)), lengths)
        columns = {name: each.flatten() for name, each in lists.items()}
        feature = columns.pop(FEATURE).to_numpy().astype(np.int64)
        distance, value = (columns.pop(name).to_numpy() for name in (DISTANCE, VALUE))
        cell = query * len(self.otherwise) + feature
        _, group, counts = np.unique(cell, return_inverse=True, return_counts=True)
        nearest, _ = nearest_of(group, counts, distance, columns, self.k)
        donors = Donors(
            query[nearest], feature[nearest], distance[nearest], nearest, value[nearest]
        )
        return self._struct(np.ones(len(lengths), bool), donors)

    def _struct(self, wanted: NDArray[np.bool_], donors: Donors) -> pa.StructArray:
        """Return the answers, given the donors of the queries that are `wanted`."""
        values = np.tile(np.array(self.otherwise), (int(wanted.sum()), 1))
        means = donated_means(donors, self.weights)
        values[means.queries, means.features] = means.values
        offsets = list_offsets(wanted * values.shape[1])
        lists = pa.ListArray.from_arrays(offsets, pa.array(values.ravel()))
        return pa.StructArray.from_arrays([lists], names=self.result_type.names)


@dataclass(frozen=True)
class DonorLists(OwnSearch):
    """The donors in one shard of each query's missing values, as lists.

    Attributes
    ----------
    result_type : StructType
        The lists: `FEATURE`, `DISTANCE`, columns of the items, and `VALUE`.
    k : int
        The number of donors of a value.
    n_features : int
        The number of features.
    """

    result_type: T.StructType
    k: int
    n_features: int

    @property
    def width(self) -> int:
        """See `OwnSearch.width`."""
        return self.k * self.n_features * len(self.result_type.names)

    def search(self, searchable: Searchable, queries: NDArray[np.floating]) -> pa.StructArray:
        """See `OwnSearch.search`."""
        donors = find_donors(_index(searchable), queries, self.k)
        own = {
            FEATURE: pa.array(donors.features, pa.int32()),
            DISTANCE: pa.array(donors.distances),
            VALUE: pa.array(donors.values),
        }
        offsets = list_offsets(np.bincount(donors.queries, minlength=len(queries)))
        lists = [
            pa.ListArray.from_arrays(
                offsets,
                own[name] if name in own else searchable.items.take(name, donors.positions),
            )
            for name in self.result_type.names
        ]
        return pa.StructArray.from_arrays(lists, names=self.result_type.names)


def _index(searchable: Searchable) -> NeighborIndex:
    """Return the index, which has no groups since imputers have no keys."""
    return cast("NeighborIndex", searchable.index)
