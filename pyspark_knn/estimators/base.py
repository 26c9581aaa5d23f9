"""The base classes of the estimators."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from pyspark.ml import Estimator
from pyspark.ml.base import _FitMultipleIterator
from pyspark.ml.param import Param
from pyspark.ml.util import MLWritable
from pyspark.sql import DataFrame

from pyspark_knn.display import only_items
from pyspark_knn.engine.fit.packed import PackedItems
from pyspark_knn.engine.fit.source import ItemSource, item_source
from pyspark_knn.engine.rows.queries import names_to_keep
from pyspark_knn.engine.spark import compat
from pyspark_knn.estimators.fit_multiple import MultipleFits
from pyspark_knn.models.fit_summary import FitSummary
from pyspark_knn.models.neighbors import NeighborModel
from pyspark_knn.models.placed import PlacedModel
from pyspark_knn.params.approximate_checks import check_approximation
from pyspark_knn.params.checks import (
    check_exclusion,
    check_keys,
    check_limits,
    checked_metric,
    warn_of_items,
    warn_of_nondeterministic_ids,
)
from pyspark_knn.params.fit_setters import FitSetters
from pyspark_knn.params.placement import HasPlacement
from pyspark_knn.persistence.stages import Loadable, StageReader, StageWriter

P = TypeVar("P", bound=PlacedModel)
M = TypeVar("M", bound=NeighborModel)
S = TypeVar("S", bound="PlacedEstimator[Any]")

_USER_LEVEL = 4
"""The `stacklevel` of the user's line in a method that is called by `_fit`, `Estimator.fit` and the
user."""


class PlacedEstimator(Estimator[P], HasPlacement, Loadable, MLWritable):
    """An estimator whose `fit` checks the Params, packs the items, and places and indexes them."""

    def _new_model(self) -> P:
        """Return a model of this estimator's class without an index."""
        raise NotImplementedError

    def _fit(self, dataset: DataFrame) -> P:
        compat.session_of(dataset)
        self._check_params()
        source = self._source(dataset)
        warn_of_nondeterministic_ids(dataset, self.getOrDefault("idCol"), _USER_LEVEL)
        with PackedItems(dataset, source) as packed:
            self._check_dimension(packed.num_features)
            model = self._new_model()
            model._resetUid(self.uid)
            self._copyValues(model)
            summary = FitSummary(
                packed.num_skipped, featureNames=names_to_keep(packed.source.features)
            )
            summary = self._learn(dataset, packed, summary)
            model._place(packed, summary)
        self._finish(model, dataset)
        self._warn(model)
        return model

    def fitMultiple(
        self, dataset: DataFrame, paramMaps: Sequence[dict[Param[Any], Any]]
    ) -> Iterator[tuple[int, P]]:
        """Fit a model for each of `paramMaps`; thread-safe.

        The items are packed and indexed once for all param maps that agree on the index: k,
        weights, maxDistance, thresholds, the output columns and so on do not change it. Models that
        share an index also share their search, see `pyspark_knn.estimators.fit_multiple`.

        Parameters
        ----------
        dataset : DataFrame
            The items.
        paramMaps : sequence of dict
            The Params that each fit overrides: Param -> value.

        Returns
        -------
        iterator of (int, model)
            The index into `paramMaps`, and the model of that param map.
        """
        fits: MultipleFits[P] = MultipleFits(self, dataset, paramMaps)
        return _FitMultipleIterator(fits.model, len(paramMaps))

    def _reuse_index(self, first: P) -> P:
        """Return this estimator's model, given a model of an estimator that has the same index.

        Parameters
        ----------
        first : PlacedModel
            Fitted on the same items, with the same Params of the index.

        Returns
        -------
        PlacedModel
            A copy of `first` with this estimator's Params.
        """
        self._check_params()
        model = first.copy()
        model._paramMap = {}
        model._set(**first._chosen(first._fitted))
        self._copyValues(model)
        return model

    def _check_params(self) -> None:
        """Raise a ValueError if Params conflict with each other."""

    def _check_dimension(self, dim: int) -> None:
        """Raise a ValueError if vectors of this dimension conflict with a Param."""

    def _source(self, dataset: DataFrame) -> ItemSource:
        """Return what to read of the items."""
        raise NotImplementedError

    def _learn(self, dataset: DataFrame, packed: PackedItems, summary: FitSummary) -> FitSummary:
        """Return `summary` with the fields that this kind of estimator adds to it."""
        return summary

    def _finish(self, model: P, dataset: DataFrame) -> None:
        """Learn what this estimator's Params need of the items, given a model with its index."""

    def _warn(self, model: P) -> None:
        """Warn about settings that are allowed but probably not intended."""

    def write(self) -> StageWriter:
        """Return a writer that saves the Params of this estimator."""
        return StageWriter(self)

    @classmethod
    def read(cls: type[S]) -> StageReader[S]:
        """Return a reader that loads a saved estimator."""
        return StageReader(cls)


class NeighborEstimator(PlacedEstimator[M], FitSetters):
    """An estimator of a model that finds nearest neighbors by a metric."""

    def _check_params(self) -> None:
        check_approximation(self)
        checked_metric(self)
        check_limits(self)
        check_exclusion(self)
        check_keys(self)

    def _source(self, dataset: DataFrame) -> ItemSource:
        return item_source(
            dataset,
            self.getFeaturesCol(),
            self._item_columns(),
            self.getHandleInvalid(),
            self.getDtype(),
            self.getStorage(),
            missing=checked_metric(self).allows_missing,
        )

    def _finish(self, model: M, dataset: DataFrame) -> None:
        model._measure_recall()

    def _check_dimension(self, dim: int) -> None:
        checked_metric(self).check_dimension(dim)

    def _warn(self, model: M) -> None:
        if self.getIdCol() is None and self._shows_ids():
            warnings.warn(
                "idCol is unset: neighbors are identified by their positions, which depend on the "
                "order of the input. Set idCol to get stable ids.",
                stacklevel=_USER_LEVEL,
            )
        model._warn_of_recall(_USER_LEVEL + 1)
        duplicates = model._summary.numDuplicates
        warn_of_items(self, duplicates, model._fitted.converts, _USER_LEVEL + 1)
        self._warn_of_k(model)

    def _warn_of_k(self, model: M) -> None:
        """Warn if there are fewer than k items."""
        if (k := self.getK()) is not None and k > model.numItems:
            warnings.warn(
                f"k is {k}, but {only_items(model.numItems)}: each query gets fewer than k "
                "neighbors.",
                stacklevel=_USER_LEVEL + 1,
            )

    def _shows_ids(self) -> bool:
        """Whether the output contains ids of neighbors."""
        return True
