"""What all stages have in common: the template of fit, of a model, and of a search."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from pyspark.ml import Estimator, Model
from pyspark.ml.base import _FitMultipleIterator
from pyspark.ml.param import Param
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn.engine import columns, compat
from pyspark_knn.engine.items import Items, ItemSource, PackedItems
from pyspark_knn.engine.placement import Placement, choose_placement
from pyspark_knn.engine.replicated import Replicated
from pyspark_knn.engine.sharded import Sharded
from pyspark_knn.engine.sharing import Limits, SharedSearch, is_cached
from pyspark_knn.engine.worker import Answer, Request
from pyspark_knn.explain import EXPLAINED_QUERIES, SearchCost
from pyspark_knn.index.auto import build_index
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.cells import check_cells
from pyspark_knn.index.distances import Metric, check_algorithm, resolve_metric
from pyspark_knn.params import FitSetters, HasNeighbors
from pyspark_knn.persistence import ModelReader, ModelWriter, SavedStage, StageReader, StageWriter
from pyspark_knn.siblings import SiblingFits

logger = logging.getLogger(__name__)

M = TypeVar("M", bound="NeighborModel")
Self_ = TypeVar("Self_", bound="NeighborModel")
S = TypeVar("S", bound="NeighborEstimator[Any]")


@dataclass(frozen=True)
class FitFacts:
    """What a fit found out; saved with the model.

    Attributes
    ----------
    numSkipped : int
        Items that were left out as invalid.
    numDuplicates : int
        Items that have the id of another one.
    algorithmReason, placementReason : str
        Why the index is what and where it is.
    featureNames : list of str or None
        Names that queries must have, where the index came from scikit-learn with names.
    numClasses : int or None
        Of a classifier.
    classNames : list of str or None
        Of a classifier, where the label's metadata or scikit-learn told them.
    """

    numSkipped: int = 0
    numDuplicates: int = 0
    algorithmReason: str = ""
    placementReason: str = ""
    featureNames: list[str] | None = None
    numClasses: int | None = None
    classNames: list[str] | None = None


# --- fit ------------------------------------------------------------------------------------------


class NeighborEstimator(Estimator[M], FitSetters, SavedStage):
    """The template of `fit`: check, pack, place, index."""

    def _new_model(self) -> M:
        """An empty model of the right class."""
        raise NotImplementedError

    def _fit(self, dataset: DataFrame) -> M:
        compat.session_of(dataset)
        self._check_params()
        metric = checked_metric(self)
        id_type = self._id_type(dataset)
        with PackedItems(dataset, self._source(dataset, id_type)) as packed:
            metric.check_dimension(packed.num_features)
            model = self._new_model()
            model._resetUid(self.uid)
            self._copyValues(model)
            facts = self._learn(dataset, packed, FitFacts(packed.num_skipped))
            model.place(packed, id_type, facts)
        self._warn(model)
        return model

    def fitMultiple(
        self, dataset: DataFrame, paramMaps: Sequence[dict[Param[Any], Any]]
    ) -> Iterator[tuple[int, M]]:
        """Fit a model for each of `paramMaps`; thread-safe.

        The items are packed and indexed once for all maps that do not change the index (k, weights,
        maxDistance, thresholds, output columns ...). The models that share an index also share
        their search, see `pyspark_knn.siblings`.

        Parameters
        ----------
        dataset : DataFrame
            The items.
        paramMaps : sequence of dict
            Param -> value, on top of this estimator's own.

        Returns
        -------
        iterator of (int, model)
            The index into `paramMaps`, and the model.
        """
        fits = SiblingFits(self, dataset, paramMaps)
        return _FitMultipleIterator(fits.model, len(paramMaps))

    def follow(self, first: M) -> M:
        """The model of this estimator, given one that differs in no Param of the index."""
        self._check_params()
        model = first.copy()
        model._paramMap = {}
        self._copyValues(model)
        model._set(
            algorithm=first.getAlgorithm(),
            placement=first.getPlacement(),
            numShards=first.getNumShards(),
        )
        self._warn(model)
        return model

    def _check_params(self) -> None:
        """Refuse Params that do not go together."""
        checked_metric(self)
        check_max_distance(self)

    def _learn(self, dataset: DataFrame, packed: PackedItems, facts: FitFacts) -> FitFacts:
        """Add what a stage is to know of the items beyond the search."""
        return facts

    def _source(self, dataset: DataFrame, id_type: T.DataType | None) -> ItemSource:
        """What to read of the reference DataFrame."""
        name = self.getFeaturesCol()
        keys: dict[str, Column] = {}
        if id_type is not None:
            keys["id"] = columns.to_wire(columns.column(cast("str", self.getIdCol())), id_type)
        return ItemSource(
            features=columns.features_of(dataset, "featuresCol", name),
            features_col=name,
            keys=keys,
            sort_by=tuple(keys),
            id_col=self.getIdCol(),
            handle_invalid=self.getHandleInvalid(),
            dtype=self.getDtype(),
        )

    def _id_type(self, dataset: DataFrame) -> T.DataType | None:
        name = self.getIdCol()
        if name is None:
            return None
        return columns.check_id_type("idCol", columns.field_of(dataset, "idCol", name))

    def _warn(self, model: M) -> None:
        """Warn once of each thing that works, but hardly as meant."""
        if self.getIdCol() is None and self._shows_ids():
            _warn(
                "idCol is unset: neighbours are named by their position, which depends on the "
                "order of the input"
            )
        if model._facts.numDuplicates:
            _warn(
                f"idCol {self.getIdCol()!r}: {model._facts.numDuplicates} items have the id of "
                "another item"
            )
        if self.getK() > model.numItems:
            _warn(f"k is {self.getK()}, but there are only {model.numItems} items")

    def _shows_ids(self) -> bool:
        """Whether the output names neighbours."""
        return True

    def write(self) -> StageWriter:
        """A writer of this stage's Params."""
        return StageWriter(self)

    @classmethod
    def read(cls: type[S]) -> StageReader[S]:
        """A reader of a saved stage."""
        return StageReader(cls)


def _warn(message: str) -> None:
    # From here to the user's line: _warn of the stage, _fit, Estimator.fit.
    warnings.warn(message, UserWarning, stacklevel=5)


def checked_metric(params: HasNeighbors) -> Metric:
    """The metric that the Params mean.

    Raises
    ------
    ValueError
        If they do not go together: `metric`, `p`, `metricParams`, `algorithm` and `shardBy`.
    """
    metric = resolve_metric(params.getMetric(), params.getP(), params.getMetricParams())
    check_algorithm(params.getAlgorithm(), metric)
    if params.getShardBy() == "kmeans":
        check_cells(metric)
    return metric


def check_max_distance(params: HasNeighbors) -> None:
    """Refuse a negative maxDistance, unless distances can be negative."""
    limit = params.getMaxDistance()
    if limit is not None and limit < 0 and params.getMetric() != "inner_product":
        raise ValueError(
            f"maxDistance must be >= 0, got {limit!r} (only the distances of metric "
            "'inner_product' can be negative)"
        )


# --- models ---------------------------------------------------------------------------------------


class NeighborModel(Model, HasNeighbors, SavedStage):
    """A fitted index in its place, and the template of a search."""

    _OUTPUTS: ClassVar[tuple[str, ...]]
    """The Params that name output columns, in the order of the columns."""

    def __init__(self) -> None:
        super().__init__()
        self._index: Placement | None = None
        self._loaded_from: str | None = None
        self._facts = FitFacts()
        self._shared: SharedSearch | None = None

    def place(self, packed: PackedItems, id_type: T.DataType | None, facts: FitFacts) -> None:
        """Index packed items where the Params say; for the use of fit and load alone."""
        name, reason = choose_placement(self.getPlacement(), packed)
        # A loaded model knows the reason already, unless it could not stay where it was.
        told = facts.placementReason if name == self.getPlacement() else ""
        facts = replace(facts, placementReason=told or reason)
        if name == Replicated.name:
            items, matrix = packed.gather()
            facts = replace(facts, numDuplicates=items.duplicates())
            self.install(items, matrix, id_type, facts)
            return
        index = Sharded.build(packed, self._spec(), id_type, self.getNumShards(), self.getShardBy())
        self._set(numShards=index.num_shards)
        algorithm, reason = index.algorithm
        self._hold(index, algorithm, reason, replace(facts, numDuplicates=index.duplicates))

    def install(
        self,
        items: Items,
        matrix: NDArray[np.floating],
        id_type: T.DataType | None,
        facts: FitFacts,
    ) -> None:
        """Index `matrix`, here on the driver, as the Params say."""
        index, reason = build_index(matrix, self._spec())
        self._hold(Replicated(items, index, id_type), index.algorithm, reason, facts)

    def _spec(self) -> IndexSpec:
        return IndexSpec(checked_metric(self), self.getAlgorithm(), self.getLeafSize())

    def _hold(self, index: Placement, algorithm: str, reason: str, facts: FitFacts) -> None:
        # The model's own Params tell what "auto" came to.
        self._set(algorithm=algorithm, placement=index.name)
        self._index = index
        self._facts = replace(facts, algorithmReason=facts.algorithmReason or reason)
        logger.info("algorithm %s: %s", algorithm, self._facts.algorithmReason)
        logger.info("placement %s: %s", index.name, facts.placementReason)

    def share(self, search: SharedSearch | None) -> None:
        """Search together with the other models of a `fitMultiple`."""
        self._shared = search

    def fit_record(self) -> dict[str, Any]:
        """What is to be known of the fit when this model is loaded."""
        return asdict(self._facts)

    def restore(
        self, packed: PackedItems, id_type: T.DataType | None, record: dict[str, Any]
    ) -> None:
        """Take back in what was saved; for the use of load alone."""
        self.place(packed, id_type, FitFacts(**record))

    def came_from(self, path: str) -> None:
        """Remember where this model was loaded from."""
        self._loaded_from = path

    def needs(self, path: str) -> bool:
        """Whether the index may still have to be built again out of what is saved at `path`."""
        loaded = self._loaded_from
        sharded = isinstance(self._index, Sharded)
        return sharded and loaded is not None and loaded.rstrip("/") == path.rstrip("/")

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
        return self._facts.numSkipped

    @property
    def algorithmReason(self) -> str:
        """Why the index is of the kind that `getAlgorithm` tells."""
        return self._facts.algorithmReason

    @property
    def placementReason(self) -> str:
        """Why the index is where `getPlacement` tells."""
        return self._facts.placementReason

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
        name, id_type = outputs.get("neighborsCol"), self._id_type
        if name is None or not columns.changes_on_wire(id_type):
            return frame
        ids = F.transform(columns.column(name), lambda each: columns.from_wire(each, id_type))
        return frame.withColumn(name, ids)

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
        compat.session_of(queries)
        check_max_distance(self)
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
            shared = self._shared.answer(queries, key, limits, answer, self._id_type, search)
            if shared is not None:
                return finish(shared)
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
        self._check_attributes(features)
        inputs = list(zip(features.columns, features.types, strict=True))
        if self.getExcludeIdCol() is not None:
            inputs.append(self._excluded(queries))
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

    def _check_attributes(self, features: columns.Features) -> None:
        """Refuse, before any job, queries that the schema shows to be of another make."""
        name = self.getFeaturesCol()
        known = features.attributes
        if known is not None and known != self.numFeatures and self.getHandleInvalid() == "error":
            raise ValueError(
                f"featuresCol {name!r} holds vectors of dimension {known} where "
                f"{self.numFeatures} is needed"
            )
        expected = self._facts.featureNames
        if expected is not None and features.names is not None and features.names != expected:
            raise ValueError(
                f"featuresCol {name!r} is made of {features.names}, but the index of {expected}"
            )

    def _excluded(self, queries: DataFrame) -> tuple[Column, T.DataType]:
        """For each query the ids never to be returned: an array on the wire, without nulls."""
        name = cast("str", self.getExcludeIdCol())
        field = columns.field_of(queries, "excludeIdCol", name)
        id_type = self._fitted.id_type or T.LongType()
        given, values = field.dataType, columns.column(field.name)
        if given == id_type:
            values = F.array(values)
        elif not (isinstance(given, T.ArrayType) and given.elementType == id_type):
            wanted = id_type.simpleString()
            raise TypeError(
                f"excludeIdCol {name!r} must be of the items' id type, {wanted} or array<{wanted}>,"
                f" but was actually {given.simpleString()}: cast it"
            )
        wire = columns.wire_type(id_type)
        known = F.array_compact(values)
        if wire != id_type:
            known = F.transform(known, lambda each: columns.to_wire(each, id_type))
        nothing = F.array().cast(T.ArrayType(wire))
        return F.coalesce(known, nothing), T.ArrayType(wire)

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
