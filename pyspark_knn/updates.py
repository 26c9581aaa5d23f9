"""Models with other items: the same model with items appended or removed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from pyspark.sql import DataFrame

from pyspark_knn.checks import warn_of_items, warn_of_nondeterministic_ids
from pyspark_knn.engine import placing
from pyspark_knn.engine.fit.packed import PackedItems
from pyspark_knn.engine.fit.source import ItemSource, item_source, source_like
from pyspark_knn.engine.rows.queries import check_attributes
from pyspark_knn.engine.spark import compat
from pyspark_knn.model import NeighborModel

if TYPE_CHECKING:
    from pyspark_knn.engine.placement import Placement
    from pyspark_knn.fit_summary import FitSummary

Self_ = TypeVar("Self_", bound="UpdatableModel")

_USER_LEVEL = 3
"""The `stacklevel` of the user's line in a function that is called by `append` or `remove`."""


class UpdatableModel(NeighborModel):
    """A model that items can be appended to and removed from, which returns another model."""

    def append(self: Self_, items: DataFrame) -> Self_:
        """Return a model of the items of this model and of new items.

        Its answers are equal to the last bit to those of a fit of all items, but only the new items
        are read. This model does not change, and both can be used from then on.

        Parameters
        ----------
        items : DataFrame
            The new items, with the columns that `fit` read: the features column by the name that
            it has on this model, and ``idCol``, ``labelCol`` and ``weightCol``. An id that an item
            already has makes a duplicate, as at fit. Without ``idCol``, the new items get the
            positions after the last one.

        Returns
        -------
        KNNModel, KNNClassificationModel or KNNRegressionModel
            A model of the class of this one, with its uid, its Params, its placement, its storage
            and its algorithm.

        Raises
        ------
        TypeError
            If `items` is not a DataFrame, or if a column has a wrong type: ids must have the type
            of this model's ids, or be narrower integers.
        ValueError
            As from `fit`, for example if a column does not exist or an item is invalid. Also if the
            vectors have other features than this model's, if a label is not among the classes that
            were declared at fit, or if the driver has not enough memory for a replicated index.
        """
        compat.session_of(items, "items")
        index = self._fitted
        source = self._source_of(items)
        warn_of_nondeterministic_ids(items, self.getIdCol(), _USER_LEVEL)
        summary = self._summary
        with PackedItems(items, source, may_be_empty=True) as packed:
            summary = replace(summary, numSkipped=summary.numSkipped + packed.num_skipped)
            if packed.num_items:
                summary = self._learn_from(items, packed, summary)
                index = placing.append(index, packed, self._spec())
        model = self._with_index(index, summary)
        warn_of_items(model, index.num_duplicates, index.converts, _USER_LEVEL)
        return model

    def _source_of(self, items: DataFrame) -> ItemSource:
        """Return what to read of new items."""
        name, invalid = self.getFeaturesCol(), self.getHandleInvalid()
        declared = self._item_columns()
        source = item_source(items, name, declared, invalid, self.getDtype(), self.getStorage())
        check_attributes(
            name,
            source.features,
            self.numFeatures,
            self._summary.featureNames,
            strict=invalid == "error",
            rows="new items",
        )
        types = {"id": self._fitted.id_type, **self._fitted.key_types}
        return source_like(source, self.numFeatures, types, declared)

    def _learn_from(self, items: DataFrame, packed: PackedItems, summary: FitSummary) -> FitSummary:
        """Return `summary` with the fields that new items of this kind of model change."""
        return summary

    def _with_index(self: Self_, index: Placement, summary: FitSummary) -> Self_:
        """Return a model like this one with another index."""
        model = self.copy()
        # Searches are shared by models that have the same items.
        model._share(None)
        model._index = index
        model._summary = replace(summary, numDuplicates=index.num_duplicates)
        if index.num_shards is not None:
            model._fix_again(numShards=index.num_shards)
        return model
