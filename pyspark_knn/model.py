"""What all models have in common: an index in its place, and the template of a search."""

from __future__ import annotations

import functools
import logging
import uuid
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, ClassVar, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn.checks import check_max_distance, checked_metric, warn_of_limits
from pyspark_knn.copying import SharedIndex
from pyspark_knn.engine import columns, compat
from pyspark_knn.engine.folders import SavedAt
from pyspark_knn.engine.items import Items
from pyspark_knn.engine.packed import ItemSource, PackedItems
from pyspark_knn.engine.placement import Placement, choose_placement
from pyspark_knn.engine.queries import check_attributes, excluded_ids
from pyspark_knn.engine.replicated import Replicated
from pyspark_knn.engine.sharded import Sharded
from pyspark_knn.engine.sharing import Limits, Prepared, SharedSearch, is_cached
from pyspark_knn.engine.worker import Answer, Request
from pyspark_knn.explain import EXPLAINED_QUERIES, SearchCost
from pyspark_knn.fit_summary import FitSummary, read_summary
from pyspark_knn.fitted_params import FittedParams
from pyspark_knn.index.auto import build_index
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.params import _KNNParams
from pyspark_knn.persistence import ModelReader, ModelWriter, SavedModel

logger = logging.getLogger(__name__)

M = TypeVar("M", bound="NeighborModel")
Self_ = TypeVar("Self_", bound="NeighborModel")


class NeighborModel(SharedIndex, FittedParams, _KNNParams, SavedModel):
    """A fitted index in its place, and the template of a search."""

    _OUTPUTS: ClassVar[tuple[str, ...]]
    """The Params that name output columns, in the order of the columns."""

    def __init__(self) -> None:
        super().__init__()
        self._index: Placement | None = None
        self._loaded_from: SavedAt | None = None
        self._summary = FitSummary()
        self._shared: SharedSearch | None = None
        self._warned: set[str] = set()
        """Warnings that were given; one set for a model and its copies."""

    def place(self, packed: PackedItems, id_type: T.DataType | None, summary: FitSummary) -> None:
        """Index packed items where the Params say; for the use of fit and load alone."""
        name, reason = choose_placement(self.getPlacement(), packed)
        # A loaded model knows the reason already, unless it could not stay where it was.
        told = summary.placementReason if name == self.getPlacement() else ""
        summary = replace(summary, placementReason=told or reason)
        if name == Replicated.name:
            items, matrix = packed.gather()
            summary = replace(summary, numDuplicates=items.duplicates())
            self.install(items, matrix, id_type, summary)
            return
        index = Sharded.build(packed, self._spec(), id_type, self.getNumShards(), self.getShardBy())
        algorithm, reason = index.algorithm
        summary = replace(summary, numDuplicates=index.duplicates)
        self._hold(index, reason, summary, algorithm=algorithm, numShards=index.num_shards)

    def install(
        self,
        items: Items,
        matrix: NDArray[np.floating],
        id_type: T.DataType | None,
        summary: FitSummary,
    ) -> None:
        """Index `matrix`, here on the driver, as the Params say."""
        index, reason = build_index(matrix, self._spec())
        held = Replicated(items, index, id_type)
        self._hold(held, reason, summary, algorithm=index.algorithm)

    def _spec(self) -> IndexSpec:
        return IndexSpec(checked_metric(self), self.getAlgorithm(), self.getLeafSize())

    def _hold(self, index: Placement, reason: str, summary: FitSummary, **chosen: Any) -> None:
        # The model's own Params tell what "auto" came to.
        self._fix(placement=index.name, **chosen)
        self._index = index
        self._summary = replace(summary, algorithmReason=summary.algorithmReason or reason)
        logger.info("algorithm %s: %s", self.getAlgorithm(), self._summary.algorithmReason)
        logger.info("placement %s: %s", index.name, summary.placementReason)

    def share(self, search: SharedSearch | None) -> None:
        """Search together with the other models of a `fitMultiple`."""
        self._shared = search

    def prepared(self) -> Prepared:
        """The answer that this model will be asked for, with its Params as they are."""
        unique = uuid.uuid4().hex
        outputs = {
            name: f"knn_{name}_{unique}" for name in self._OUTPUTS if self.getOrDefault(name)
        }
        limits = Limits(self.getK(), self.getMaxDistance())
        return Prepared(limits, self._answer(outputs), self._finished(outputs))

    def fit_record(self) -> dict[str, Any]:
        """What is to be known of the fit when this model is loaded."""
        return asdict(self._summary)

    def restore(
        self, packed: PackedItems, id_type: T.DataType | None, record: dict[str, Any]
    ) -> None:
        """Take back in what was saved; for the use of load alone."""
        summary = read_summary(record)
        self._check_summary(summary, packed)
        self.place(packed, id_type, summary)

    def _check_summary(self, summary: FitSummary, packed: PackedItems) -> None:
        """Raise a ValueError if a saved summary does not match the saved items."""
        names = summary.featureNames
        if names is not None and len(names) != packed.num_features:
            raise ValueError(f"{len(names)} featureNames for {packed.num_features} features")

    def saved_columns(self) -> dict[str, tuple[str, ...]]:
        """The columns that saved items must have, and their types; of ids any type."""
        names = {"position": ("bigint",)} if self.getIdCol() is None else {"id": ()}
        return {**names, "features": ("array<double>", "array<float>")}

    def read_as(self, source: ItemSource) -> ItemSource:
        """How to read saved items, given how anybody's are read."""
        return replace(source, id_col=None if self.getIdCol() is None else "id")

    def came_from(self, place: SavedAt) -> None:
        """Remember where this model was loaded from."""
        self._loaded_from = place

    def needs(self, place: SavedAt) -> bool:
        """Whether the index may still have to be built again out of what is saved there."""
        loaded = self._loaded_from
        return isinstance(self._index, Sharded) and loaded is not None and loaded.overlaps(place)

    @property
    def numItems(self) -> int:
        """How many items there are."""
        return self._fitted.num_items

    @property
    def numFeatures(self) -> int:
        """The dimension of the items' vectors."""
        return self._fitted.num_features

    @property
    def numSkipped(self) -> int:
        """How many items were left out as invalid (handleInvalid "skip" or "keep")."""
        return self._summary.numSkipped

    @property
    def algorithmReason(self) -> str:
        """Why the index is of the kind that `getAlgorithm` tells."""
        return self._summary.algorithmReason

    @property
    def placementReason(self) -> str:
        """Why the index is where `getPlacement` tells."""
        return self._summary.placementReason

    @property
    def ids(self) -> NDArray[Any]:
        """The items' ids, of shape (numItems,), in the order of their positions.

        Of a sharded model they are fetched from the executors each time, by a job.
        """
        ids = self._fitted.fetch()[0].ids
        if ids is None:
            return np.arange(self.numItems)
        if isinstance(self._fitted.id_type, T.DateType):
            return cast("NDArray[Any]", ids.to_numpy().astype("datetime64[D]"))
        if columns.changes_on_wire(cast("T.DataType", self._fitted.id_type)):
            return cast("NDArray[Any]", ids.to_numpy().astype("datetime64[us]"))
        return cast("NDArray[Any]", ids.to_numpy(zero_copy_only=False))

    @property
    def items(self) -> DataFrame:
        """The items: position, id (where idCol is set), features (array of float or double)."""
        session = SparkSession.getActiveSession()
        if session is None:
            raise ValueError("there is no running Spark session to make a DataFrame in")
        return self.items_frame(session)

    def items_frame(self, session: SparkSession) -> DataFrame:
        """The items as a DataFrame of `session`."""
        return self._fitted.items_frame(session)

    def explainSearch(self, queries: DataFrame) -> str:
        """What a search of `queries` would cost, before it is run.

        It counts the queries and times a few hundred of them in one shard, or in the replicated
        index; the search itself is not run.

        Parameters
        ----------
        queries : DataFrame
            Has the features column.

        Returns
        -------
        str
            Items, queries and pairs; placement, shards and replicas; bytes that move; Python
            memory; an estimate of the time; and settings to raise, if any. For people to read.
        """
        compat.session_of(queries, "queries")
        features = columns.features_of(queries, "featuresCol", self.getFeaturesCol())
        rows = queries.select(*features.columns).limit(EXPLAINED_QUERIES).collect()
        sample = columns.valid_sample(rows, features.types, self.numFeatures)
        cost = self._fitted.cost(queries.sparkSession, sample, self.getK())
        probes = self.getNumProbes() if self.getShardBy() == "kmeans" else None
        share = min(1.0, probes / cost.shards) if probes and cost.shards else 1.0
        return SearchCost(
            items=self.numItems,
            features=self.numFeatures,
            queries=queries.count(),
            k=self.getK(),
            probed=share,
            **asdict(cost),
        ).report()

    def unpersist(self: Self_) -> Self_:
        """Free what the executors hold of the index.

        The model can still be used: a replicated index is shipped again, and shards are built again
        from the items, in each search.
        """
        self._fitted.unpersist()
        return self

    @property
    def _fitted(self) -> Placement:
        if self._index is None:
            raise ValueError(
                f"this {type(self).__name__} has no index: it comes from fit() or load(), not from "
                "its constructor"
            )
        return self._index

    def _transform(self, dataset: DataFrame) -> DataFrame:
        compat.session_of(dataset)
        outputs = {param: name for param in self._OUTPUTS if (name := self.getOrDefault(param))}
        if not outputs:
            raise ValueError(f"{', '.join(self._OUTPUTS)} are all empty: nothing would be added")
        columns.refuse_existing(dataset, outputs)
        return self._search(dataset, outputs)

    def _answer(self, outputs: dict[str, str]) -> Answer:
        """What the workers make of neighbours: the columns that `outputs` names."""
        raise NotImplementedError

    def _finish(self, outputs: dict[str, str], frame: DataFrame) -> DataFrame:
        """Turn the columns as they come out of Python into what the user sees."""
        return columns.replace_columns(frame, self._finished(outputs))

    def _finished(self, outputs: dict[str, str]) -> dict[str, Column]:
        """The columns that are not yet as the user sees them, as they shall be."""
        name, id_type = outputs.get("neighborsCol"), self._id_type
        if name is None or not columns.changes_on_wire(id_type):
            return {}
        ids = F.transform(columns.column(name), lambda each: columns.from_wire(each, id_type))
        return {name: ids.alias(name)}

    @property
    def _id_type(self) -> T.DataType:
        """The type that neighbours are named in."""
        return self._fitted.id_type or T.LongType()

    def _lists_type(self, outputs: dict[str, str]) -> T.StructType:
        """The columns of `outputs` that list neighbours, as they come out of Python."""
        kinds = {"neighborsCol": columns.wire_type(self._id_type), "distancesCol": T.DoubleType()}
        fields = [
            T.StructField(outputs[param], T.ArrayType(kind))
            for param, kind in kinds.items()
            if param in outputs
        ]
        return T.StructType(fields)

    def _search(self, queries: DataFrame, outputs: dict[str, str]) -> DataFrame:
        """Search the rows of `queries`, lazily; the output columns must have been checked."""
        check_max_distance(self)
        warn_of_limits(self, self._warned)
        answer, finish = self._answer(outputs), functools.partial(self._finish, outputs)
        if self._shared is not None and is_cached(queries):
            limits = Limits(self.getK(), self.getMaxDistance())
            key = (
                self.getFeaturesCol(),
                self.getExcludeIdCol(),
                self.getHandleInvalid(),
                self.getNumProbes(),
            )
            search = functools.partial(self._run, queries, finish=lambda frame: frame)
            shared = self._shared.answer(
                queries, key, limits, answer, self._id_type, search, finish
            )
            if shared is not None:
                return shared
        return self._run(queries, answer, self.getK(), self.getMaxDistance(), finish)

    def _run(
        self,
        queries: DataFrame,
        answer: Answer,
        k: int,
        max_distance: float | None,
        finish: Callable[[DataFrame], DataFrame],
    ) -> DataFrame:
        """Search as told, whatever the Params k and maxDistance are."""
        index = self._fitted
        features = columns.features_of(queries, "featuresCol", self.getFeaturesCol())
        strict = self.getHandleInvalid() == "error"
        names = self._summary.featureNames
        check_attributes(self.getFeaturesCol(), features, self.numFeatures, names, strict=strict)
        inputs = list(zip(features.columns, features.types, strict=True))
        if (excluded := self.getExcludeIdCol()) is not None:
            inputs.append(excluded_ids(queries, excluded, self._id_type))
        request = Request(
            k=k,
            max_distance=max_distance,
            handle_invalid=self.getHandleInvalid(),
            features_col=self.getFeaturesCol(),
            feature_columns=len(features.columns),
            answer=answer,
            probes=self.getNumProbes(),
            replicas=self.getNumReplicas(),
        )
        return index.search(queries, inputs, request, finish)

    def __repr__(self) -> str:
        if self._index is None:
            return f"{type(self).__name__}: uid={self.uid}, without an index"
        return (
            f"{type(self).__name__}: uid={self.uid}, algorithm={self.getAlgorithm()}, "
            f"placement={self.getPlacement()}, numItems={self.numItems}, "
            f"numFeatures={self.numFeatures}, metric={self.getMetric()}, k={self.getK()}"
        )

    def write(self) -> ModelWriter:
        """A writer of this model."""
        self._fitted  # noqa: B018 - refuses an empty model before anything is overwritten
        return ModelWriter(self)

    @classmethod
    def read(cls: type[M]) -> ModelReader[M]:
        """A reader of a saved model."""
        return ModelReader(cls)
