"""Models with other items: the same model with items appended or removed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from pyspark.sql import DataFrame

from pyspark_knn.engine import placing
from pyspark_knn.engine.fit.source import ItemSource, item_source, source_like
from pyspark_knn.engine.rows.given_ids import ids_of_frame, ids_of_values
from pyspark_knn.engine.rows.queries import check_attributes
from pyspark_knn.engine.spark import compat
from pyspark_knn.models.approximate import ApproximateModel
from pyspark_knn.params.checks import warn_of_items, warn_of_nondeterministic_ids
from pyspark_knn.params.neighbors import _KNNParams

if TYPE_CHECKING:
    from pyspark_knn.engine.fit.packed import PackedItems
    from pyspark_knn.engine.placement import Placement
    from pyspark_knn.models.fit_summary import FitSummary

Self_ = TypeVar("Self_", bound="UpdatableModel")

_USER_LEVEL = 3
"""The `stacklevel` of the user's line in a function that is called by `append` or `remove`."""


class UpdatableModel(ApproximateModel, _KNNParams):
    """A model that items can be appended to and removed from, which returns another model."""

    def append(self: Self_, items: DataFrame) -> Self_:
        """Return a model of the items of this model and of new items.

        Its answers are equal to the last bit to those of a fit of all items, but only the new items
        are read. This model does not change, and both can be used from then on.

        Parameters
        ----------
        items : DataFrame
            The new items, with the columns that `fit` read: the features column by the name that
            it has on this model, ``idCol``, ``labelCol``, ``weightCol`` and ``keyCols``. An id that
            an item already has makes a duplicate, as at fit. Without ``idCol``, the new items get
            the positions after the last one.

        Returns
        -------
        KNNModel, KNNClassificationModel or KNNRegressionModel
            A model of the class of this one, with its uid, its Params, its placement, its storage
            and its algorithm.

        Raises
        ------
        TypeError
            If `items` is not a DataFrame, or if a column has a wrong type: ids and keys must have
            the type that they had at fit, or be narrower integers.
        ValueError
            As from `fit`, for example if a column does not exist or an item is invalid. Also if the
            vectors have other features than this model's, if a label is not among the classes that
            were declared at fit, or if the driver has not enough memory for a replicated index.

        Examples
        --------
        >>> from pyspark_knn import KNNEstimator
        >>> old = spark.createDataFrame([("plum", [1.0]), ("pear", [4.0])], ["id", "features"])
        >>> new = spark.createDataFrame([("peach", [2.0])], ["id", "features"])
        >>> model = KNNEstimator(k=2, idCol="id").fit(old)
        >>> query = spark.createDataFrame([([1.0],)], ["features"])
        >>> model.append(new).transform(query).first()["neighbors"]
        ['plum', 'peach']
        >>> model.append(new).remove(["plum"]).transform(query).first()["neighbors"]
        ['peach', 'pear']
        """
        compat.session_of(items, "items")
        index = self._fitted
        source = self._source_of(items)
        warn_of_nondeterministic_ids(items, self.getIdCol(), _USER_LEVEL)
        summary = self._summary
        with index.pack_new(items, source, self._spec()) as packed:
            summary = replace(summary, numSkipped=summary.numSkipped + packed.num_skipped)
            if packed.num_items:
                summary = self._learn_from(items, packed, summary)
                index = placing.append(index, packed, self._spec())
        model = self._with_index(index, summary)
        warn_of_items(model, index.num_duplicates, index.converts, _USER_LEVEL)
        return model

    def remove(self: Self_, ids: DataFrame | Any) -> Self_:
        """Return a model without some items of this model.

        Its answers are equal to the last bit to those of a fit of the other items. This model does
        not change, and both can be used from then on.

        Parameters
        ----------
        ids : DataFrame, list, tuple, set, ndarray or pandas.Series
            The ids of the items to remove: a DataFrame with a column of ids that is named as
            ``idCol``, or is the only one, or the ids themselves. They are fetched to the driver.
            All items with such an id are removed. Nulls and ids that no item has are ignored.

        Returns
        -------
        KNNModel, KNNClassificationModel or KNNRegressionModel
            A model of the class of this one, with its uid, its Params, its placement, its storage
            and its algorithm.

        Raises
        ------
        TypeError
            If the ids are not of the type of this model's ids. For integer ids any integers are
            allowed.
        ValueError
            If ``idCol`` is unset, if the DataFrame has no such column, or if no items are left.
        """
        index, id_type = self._fitted, self._fitted.id_type
        name = self.getIdCol()
        if name is None or id_type is None:
            raise ValueError(
                "remove requires idCol. Without idCol, items are identified by their positions, "
                "which change when items are removed. Set idCol and fit again."
            )
        # Not isinstance: on Spark 3.5 a DataFrame of Spark Connect is of an unrelated class.
        if hasattr(ids, "sparkSession"):
            compat.session_of(ids, "ids")
            wanted = ids_of_frame(ids, name, id_type)
        else:
            wanted = ids_of_values(ids, id_type)
        rest = index.remove(wanted, self._spec())
        summary = self._summary if rest is index else self._learn_without(rest, self._summary)
        return self._with_index(rest, summary)

    def _learn_without(self, rest: Placement, summary: FitSummary) -> FitSummary:
        """Return `summary` with the fields that the removal of items of this kind changes."""
        return summary

    def _source_of(self, items: DataFrame) -> ItemSource:
        """Return what to read of new items."""
        name, invalid = self.getFeaturesCol(), self.getHandleInvalid()
        declared = self._item_columns()
        dtype, storage = self.getDtype(), self.getStorage()
        missing = self._allows_missing()
        source = item_source(items, name, declared, invalid, dtype, storage, missing=missing)
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
        if index is not self._index:
            model._forget_recall()
            model._measure_recall()
        return model
