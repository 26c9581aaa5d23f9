"""What all estimators have in common: the template of fit."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, cast

from pyspark.ml import Estimator
from pyspark.ml.base import _FitMultipleIterator
from pyspark.ml.param import Param
from pyspark.ml.util import MLReadable, MLWritable
from pyspark.sql import Column, DataFrame
from pyspark.sql import types as T

from pyspark_knn.checks import check_exclusion, check_max_distance, checked_metric
from pyspark_knn.engine import columns, compat
from pyspark_knn.engine.determinism import is_drawn
from pyspark_knn.engine.packed import ItemSource, PackedItems
from pyspark_knn.engine.queries import names_to_keep
from pyspark_knn.fit_multiple import MultipleFits
from pyspark_knn.fit_summary import FitSummary
from pyspark_knn.model import NeighborModel
from pyspark_knn.params import FitSetters
from pyspark_knn.persistence import StageReader, StageWriter

M = TypeVar("M", bound=NeighborModel)
S = TypeVar("S", bound="NeighborEstimator[Any]")

_USER_LEVEL = 4
"""`stacklevel` of the user's line, seen from a method that `_fit` calls: that method, `_fit`,
`Estimator.fit`, the user."""


class NeighborEstimator(Estimator[M], FitSetters, MLReadable[Any], MLWritable):
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
            known = FitSummary(
                packed.num_skipped, featureNames=names_to_keep(packed.source.features)
            )
            facts = self._learn(dataset, packed, known)
            model.place(packed, id_type, facts)
        self._warn(model)
        return model

    def fitMultiple(
        self, dataset: DataFrame, paramMaps: Sequence[dict[Param[Any], Any]]
    ) -> Iterator[tuple[int, M]]:
        """Fit a model for each of `paramMaps`; thread-safe.

        The items are packed and indexed once for all maps that do not change the index (k, weights,
        maxDistance, thresholds, output columns ...). The models that share an index also share
        their search, see `pyspark_knn.fit_multiple`.

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
        fits = MultipleFits(self, dataset, paramMaps)
        return _FitMultipleIterator(fits.model, len(paramMaps))

    def _reuse_index(self, first: M) -> M:
        """The model of this estimator, given one that differs in no Param of the index."""
        self._check_params()
        model = first.copy()
        model._paramMap = {}
        model._set(
            algorithm=first.getAlgorithm(),
            placement=first.getPlacement(),
            numShards=first.getNumShards(),
        )
        self._copyValues(model)
        return model

    def _check_params(self) -> None:
        """Refuse Params that do not go together."""
        checked_metric(self)
        check_max_distance(self)
        check_exclusion(self)

    def _learn(self, dataset: DataFrame, packed: PackedItems, facts: FitSummary) -> FitSummary:
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
        """The type of the ids; warns of ids that are drawn anew each time that they are read."""
        name = self.getIdCol()
        if name is None:
            return None
        id_type = columns.check_id_type("idCol", columns.field_of(dataset, "idCol", name))
        if is_drawn(dataset, name):
            warnings.warn(
                f"idCol {name!r} may get other values each time that Spark computes it, since it "
                "comes from a nondeterministic expression (uuid(), rand(), "
                "monotonically_increasing_id() or a Python function without arguments). Persist "
                "the items or write them to storage before fit, or make the id of their values",
                stacklevel=_USER_LEVEL,
            )
        return id_type

    def _warn(self, model: M) -> None:
        """Warn once of each thing that works, but hardly as meant."""
        if self.getIdCol() is None and self._shows_ids():
            warnings.warn(
                "idCol is unset: neighbours are named by their position, which depends on the "
                "order of the input",
                stacklevel=_USER_LEVEL,
            )
        if model._facts.numDuplicates:
            warnings.warn(
                f"idCol {self.getIdCol()!r}: {model._facts.numDuplicates} items have the id of "
                "another item",
                stacklevel=_USER_LEVEL,
            )
        if model._fitted.converts:
            warnings.warn(
                f"metric {self.getMetric()!r} compares sets and counts every value that is not 0 "
                f"as 1, but featuresCol {self.getFeaturesCol()!r} holds other numbers than 0 and "
                "1: binarize them on purpose (pyspark.ml.feature.Binarizer), or use a metric of "
                "numbers such as 'euclidean'",
                stacklevel=_USER_LEVEL,
            )
        if self.getK() > model.numItems:
            warnings.warn(
                f"k is {self.getK()}, but there are only {model.numItems} items",
                stacklevel=_USER_LEVEL,
            )

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
