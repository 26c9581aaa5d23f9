"""The base class of the models that find the nearest neighbors of queries."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Hashable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn.engine.fit.counted import CountedItems
from pyspark_knn.engine.placement import Placement
from pyspark_knn.engine.placing import Placed, place
from pyspark_knn.engine.rows import columns
from pyspark_knn.engine.rows.columns import Input
from pyspark_knn.engine.rows.features import features_of, most_sampled, valid_sample
from pyspark_knn.engine.rows.ids import changes_on_wire, from_wire, wire_type
from pyspark_knn.engine.rows.key_columns import key_inputs
from pyspark_knn.engine.rows.queries import check_attributes, excluded_ids
from pyspark_knn.engine.search.answers import DISTANCE, Answer, FoundLists
from pyspark_knn.engine.search.batches import EXCLUDED, Request
from pyspark_knn.engine.shared_search import Limits, Prepared, SharedSearch, is_cached
from pyspark_knn.engine.spark import compat
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.registry import entries
from pyspark_knn.models.explain import EXPLAINED_QUERIES, SearchCost
from pyspark_knn.models.fit_summary import FitSummary
from pyspark_knn.models.placed import PlacedModel
from pyspark_knn.params.checks import check_keys, checked_limits, checked_metric, warn_of_limits
from pyspark_knn.params.neighbors import _NeighborParams

if TYPE_CHECKING:
    from pyspark_knn.engine.rows.items import Items
    from pyspark_knn.index.found import Rows
_TIMED_K = 5
"""The k of the searches that `explainSearch` times if k is None."""


class NeighborModel(PlacedModel, _NeighborParams):
    """The base class of the models that find nearest neighbors by a metric."""

    _OUTPUTS: ClassVar[tuple[str, ...]]
    """The Params that name output columns, in the order of these columns."""

    def __init__(self) -> None:
        super().__init__()
        self._shared: SharedSearch | None = None
        self._shared_key: Hashable = None
        self._warned: set[str] = set()
        """The warnings that were given; a model shares this set with its copies."""

    def _placed(self, packed: CountedItems, summary: FitSummary) -> Placed:
        return place(
            packed,
            self._spec(),
            storage=self.getStorage(),
            placement=self.getPlacement(),
            num_shards=self.getNumShards(),
            shard_by=self.getShardBy(),
            saved=self._saved_index,
        )

    def _spec(self) -> IndexSpec:
        return IndexSpec(checked_metric(self), self.getAlgorithm(), self.getLeafSize(), entries())

    def _chosen(self, index: Placement) -> dict[str, Any]:
        chosen = super()._chosen(index)
        return {**chosen, "algorithm": index.algorithm, "storage": index.storage}

    def _share(self, search: SharedSearch | None) -> None:
        """Share searches with the other models of a `fitMultiple`."""
        self._shared = search
        self._shared_key = None if search is None else self._search_key()

    def _prepared(self) -> Prepared:
        """Return the answer that this model will return, unless its Params change."""
        unique = uuid.uuid4().hex
        outputs = {
            name: f"knn_{name}_{unique}" for name in self._OUTPUTS if self.getOrDefault(name)
        }
        return Prepared(self._limits(), self._answer(outputs), self._finished(outputs))

    def _knob(self) -> int | None:
        """Return how thoroughly the index is searched, see `Searchable.tuned`; None if exact."""
        return None

    def _measure_recall(self) -> None:
        """Measure the recall of an approximate index."""

    def _warn_of_recall(self, stacklevel: int = 5) -> None:
        """Warn, once, if the measured recall does not suit the Params of a search."""

    def _search_key(self) -> Hashable:
        """Return what models must agree on, besides the index, to share a search of all limits."""
        return None

    def _limits(self) -> Limits:
        """Return the limits of a search; raise a ValueError if they conflict."""
        return checked_limits(self, self.numFeatures)

    def _saved_storage(self) -> str:
        return self.getStorage()

    def _allows_missing(self) -> bool:
        """Whether vectors may have missing values."""
        return checked_metric(self).allows_missing

    # --- public members ---

    @property
    def numSkipped(self) -> int:
        """The number of items that were skipped.

        These are invalid items (handleInvalid "skip" or "keep"), and items with a null in keyCols.
        """
        return self._summary.numSkipped

    @property
    def algorithmReason(self) -> str:
        """The reason for the algorithm that `getAlgorithm` returns."""
        return self._summary.algorithmReason

    @property
    def storageReason(self) -> str:
        """The reason for the storage that `getStorage` returns."""
        return self._summary.storageReason

    @property
    def ids(self) -> NDArray[Any]:
        """The ids of the items in the order of their positions: ndarray of shape (numItems,).

        For a sharded model, each access runs a job that fetches them from the executors.
        """
        ids = self._fitted.fetch()[0].ids
        if ids is None:
            return np.arange(self.numItems)
        return self._in_numpy(ids)

    def _in_numpy(self, ids: Any) -> NDArray[Any]:
        """Return ids in the form of Python, a pyarrow.Array, as a numpy array for users."""
        if isinstance(self._id_type, T.DateType):
            return cast("NDArray[Any]", ids.to_numpy().astype("datetime64[D]"))
        if changes_on_wire(self._id_type):
            return cast("NDArray[Any]", ids.to_numpy().astype("datetime64[us]"))
        return cast("NDArray[Any]", ids.to_numpy(zero_copy_only=False))

    def _fetched(self) -> tuple[Items, Rows]:
        """Return the items and their vectors on the driver, for scikit-learn."""
        index = self._fitted
        if index.key_types:
            raise ValueError(
                f"keyCols {self.getKeyCols()!r} is not supported by scikit-learn, which searches "
                "all items. Fit one model for each key, without keyCols."
            )
        return index.fetch()

    def explainSearch(self, queries: DataFrame) -> str:
        """Estimate the cost of a search of `queries` without running it.

        This counts the queries, and times up to a few hundred of them in one shard or in the
        replicated index, as many as are searched in a fraction of a second.

        Parameters
        ----------
        queries : DataFrame
            The queries; only the features column is used.

        Returns
        -------
        str
            A report of one line per aspect: the numbers of items, queries and pairs; with keyCols
            the number of groups, their median size, and the largest of them; the storage; the
            placement, shards and replicas; the bytes to transfer; the memory of the Python
            workers; an estimate of the time; and the settings to raise, if any.

        Raises
        ------
        TypeError
            If `queries` is not a DataFrame, or the features column has another type.
        ValueError
            If there is no features column.
        """
        compat.session_of(queries, "queries")
        features = features_of(queries, "featuresCol", self.getFeaturesCol())
        inputs = [each.value for each in features.inputs.values()]
        storage = self.getStorage()
        most = min(EXPLAINED_QUERIES, most_sampled(features, self.numFeatures, storage))
        rows = queries.select(*inputs).limit(most).collect()
        name = self.getFeaturesCol()
        missing = self._allows_missing()
        sample = valid_sample(rows, features, self.numFeatures, storage, name, missing=missing)
        # A search within a distance takes about as long as one for a few neighbors.
        k = self._limits().k or _TIMED_K
        cost = self._fitted.cost(queries.sparkSession, sample.vectors, k, self._knob())
        probes = self.getNumProbes()
        share = min(1.0, probes / cost.cells) if probes and cost.cells else 1.0
        return SearchCost(
            items=self.numItems,
            features=self.numFeatures,
            queries=queries.count(),
            k=self.getK(),
            query_bytes=sample.mean_bytes,
            storage=storage,
            storage_reason=self.storageReason,
            probed=share,
            groups=self._fitted.group_sizes(queries.sparkSession),
            algorithm=self.getAlgorithm(),
            recall=self._described_recall(),
            **asdict(cost),
        ).report()

    def _described_recall(self) -> str:
        """Return the recall of an approximate search, for `explainSearch`; "" if it is exact."""
        return ""

    def _transform(self, dataset: DataFrame) -> DataFrame:
        compat.session_of(dataset)
        outputs = {param: name for param in self._OUTPUTS if (name := self.getOrDefault(param))}
        if not outputs:
            raise ValueError(f"{', '.join(self._OUTPUTS)} are all empty. Set at least one of them.")
        columns.refuse_existing(dataset, outputs)
        return self._search(dataset, outputs)

    def _answer(self, outputs: dict[str, str]) -> Answer:
        """Return the answer that computes the columns `outputs` from neighbors, in the workers."""
        raise NotImplementedError

    def _finished(self, outputs: dict[str, str]) -> dict[str, Column]:
        """Return the output columns that differ from those that Python returns, by name."""
        name, id_type = outputs.get("neighborsCol"), self._id_type
        if name is None or not changes_on_wire(id_type):
            return {}
        ids = F.transform(columns.column(name), lambda each: from_wire(each, id_type))
        return {name: ids.alias(name)}

    @property
    def _id_type(self) -> T.DataType:
        """The Spark type of the ids of neighbors."""
        return self._fitted.id_type or T.LongType()

    def _found_lists(self, outputs: dict[str, str]) -> FoundLists:
        """Return the answer that computes the columns of `outputs` that list neighbors."""
        types = {"id": wire_type(self._id_type), DISTANCE: T.DoubleType()}
        params = {"neighborsCol": "id", "distancesCol": DISTANCE}
        shown = {outputs[param]: name for param, name in params.items() if param in outputs}
        fields = [T.StructField(output, T.ArrayType(types[name])) for output, name in shown.items()]
        return FoundLists(T.StructType(fields), tuple(shown.values()))

    def _search(self, queries: DataFrame, outputs: dict[str, str]) -> DataFrame:
        """Search the rows of `queries`, lazily; the output columns must have been checked."""
        limits = self._limits()
        check_keys(self)
        warn_of_limits(self, self._warned)
        self._warn_of_recall()
        answer = self._answer(outputs)
        run = functools.partial(self._run, queries)
        found = None
        as_shared = self._shared is not None and self._search_key() == self._shared_key
        if self._shared is not None and as_shared and is_cached(queries):
            key = (
                self.getFeaturesCol(),
                self.getExcludeIdCol(),
                self.getHandleInvalid(),
                self.getNumProbes(),
                tuple(self.getQueryKeyCols() or ()),
            )
            found = self._shared.answer(queries, key, limits, answer, run)
        frame, is_finished = found or (run(answer, limits), False)
        return frame if is_finished else columns.replace_columns(frame, self._finished(outputs))

    def _run(self, queries: DataFrame, answer: Answer, limits: Limits) -> DataFrame:
        """Search within `limits`, regardless of the Params that limit a search."""
        inputs, request = self._request(queries, answer, limits)
        return self._fitted.search(queries, inputs, request)

    def _request(
        self, queries: DataFrame, answer: Answer, limits: Limits
    ) -> tuple[dict[str, Input], Request]:
        """Return what to send of each query, and what to search."""
        features = features_of(queries, "featuresCol", self.getFeaturesCol())
        strict = self.getHandleInvalid() == "error"
        names = self._summary.featureNames
        check_attributes(self.getFeaturesCol(), features, self.numFeatures, names, strict=strict)
        inputs = dict(features.inputs)
        if (excluded := self.getExcludeIdCol()) is not None:
            inputs[EXCLUDED] = excluded_ids(queries, excluded, self._id_type)
        inputs |= self._key_inputs(queries)
        request = Request(
            k=limits.k,
            max_distance=limits.max_distance,
            handle_invalid=self.getHandleInvalid(),
            features_col=self.getFeaturesCol(),
            inputs=tuple(inputs),
            answer=answer,
            probes=self.getNumProbes(),
            replicas=self.getNumReplicas(),
            keys=tuple(self._fitted.key_types),
            knob=self._knob(),
        )
        return inputs, request

    def _key_inputs(self, queries: DataFrame) -> dict[str, Input]:
        """Return the keys of queries; empty if the items have no keys."""
        types = self._fitted.key_types
        if not types:
            return {}
        given = self.getQueryKeyCols()
        param = "keyCols" if given is None else "queryKeyCols"
        return key_inputs(queries, param, given or self.getKeyCols() or [], types)

    def _facts(self) -> dict[str, Any]:
        if self._index is None:
            return {}
        return {
            "algorithm": self.getAlgorithm(),
            "placement": self.getPlacement(),
            "storage": self.getStorage(),
            "numItems": self.numItems,
            "numFeatures": self.numFeatures,
            "metric": self.getMetric(),
            "k": self.getK(),
        }
