"""The base class of all models that hold a placed index: what does not depend on their search."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from typing import Any, TypeVar

from pyspark.ml.linalg import VectorUDT
from pyspark.sql import DataFrame

from pyspark_knn.engine.fit.chunks import POSITION
from pyspark_knn.engine.fit.counted import CountedItems
from pyspark_knn.engine.placement import Placement
from pyspark_knn.engine.placing import Placed
from pyspark_knn.engine.saved_index import SavedIndex
from pyspark_knn.engine.spark import compat
from pyspark_knn.engine.spark.folders import SavedAt
from pyspark_knn.index.found import SPARSE
from pyspark_knn.models.copying import SharedIndex
from pyspark_knn.models.fit_summary import FitSummary, read_summary
from pyspark_knn.params.fitted import FittedParams
from pyspark_knn.params.placement import HasPlacement
from pyspark_knn.persistence.stages import ModelReader, ModelWriter, SavedModel

logger = logging.getLogger(__name__)

M = TypeVar("M", bound="PlacedModel")
Self_ = TypeVar("Self_", bound="PlacedModel")


class PlacedModel(SharedIndex, FittedParams, HasPlacement, SavedModel):
    """A model that holds an index in its placement: fitted, saved and loaded."""

    def __init__(self) -> None:
        super().__init__()
        self._index: Placement | None = None
        self._loaded_from: SavedAt | None = None
        self._saved_index: SavedIndex | None = None
        self._summary = FitSummary()

    def _placed(self, packed: CountedItems, summary: FitSummary) -> Placed:
        """Index packed items in the placement that the Params request."""
        raise NotImplementedError

    def _place(self, packed: CountedItems, summary: FitSummary) -> None:
        """Index packed items, and hold the index."""
        placed = self._placed(packed, summary)
        self._saved_index = None
        # A loaded model keeps the reasons of its fit, unless its placement had to change.
        kept = summary.placementReason if placed.index.name == self.getPlacement() else ""
        summary = replace(
            summary,
            placementReason=kept or placed.placement_reason,
            storageReason=summary.storageReason or placed.storage_reason,
        )
        self._hold(placed.index, summary)

    def _hold(self, index: Placement, summary: FitSummary) -> None:
        """Set the index of this model, and replace "auto" in its Params by the chosen values."""
        self._fix(**self._chosen(index))
        self._index = index
        self._summary = replace(
            summary,
            numDuplicates=index.num_duplicates,
            algorithmReason=summary.algorithmReason or index.algorithm_reason,
        )
        logger.info("algorithm %s: %s", index.algorithm, self._summary.algorithmReason)
        logger.info("placement %s: %s", index.name, summary.placementReason)
        logger.info("storage %s: %s", index.storage, summary.storageReason)

    def _chosen(self, index: Placement) -> dict[str, Any]:
        """Return the values of the Params that the fit chose."""
        chosen = {} if index.num_shards is None else {"numShards": index.num_shards}
        return {"placement": index.name, **chosen}

    # --- saved and loaded, see `pyspark_knn.persistence.stages` ---

    def _fit_record(self) -> dict[str, Any]:
        """Return the fit summary to save in the metadata, as JSON values."""
        return asdict(self._summary)

    def _has_saved_index(self, saved: SavedIndex) -> None:
        """Remember where the structure of the index is saved, until it is restored."""
        self._saved_index = saved

    def _restore(self, packed: CountedItems, record: dict[str, Any]) -> None:
        """Restore the model from its packed items and its saved fit summary."""
        summary = read_summary(record)
        self._check_summary(summary, packed)
        self._place(packed, summary)

    def _check_summary(self, summary: FitSummary, packed: CountedItems) -> None:
        """Raise a ValueError if a saved summary does not match the saved items."""
        names = summary.featureNames
        if names is not None and len(names) != packed.num_features:
            raise ValueError(
                f"featureNames must have one name for each of the {packed.num_features} features, "
                f"got {len(names)}"
            )

    def _saved_columns(self) -> dict[str, tuple[str, ...]]:
        """Return the columns that saved items must have, with their types: any type for ids."""
        position = {POSITION: ("bigint",)} if self.getOrDefault("idCol") is None else {}
        others = {each.name: each.saved_types for each in self._item_columns()}
        dense = ("array<double>", "array<float>")
        vectors = (VectorUDT().simpleString(),) if self._saved_storage() == SPARSE else dense
        return {**position, **others, "features": vectors}

    def _came_from(self, saved_at: SavedAt) -> None:
        """Remember the folder that this model was loaded from."""
        self._loaded_from = saved_at

    def _needs(self, saved_at: SavedAt) -> bool:
        """Whether the index may have to be rebuilt from the files of that folder."""
        loaded = self._loaded_from
        rebuilds = self._index is not None and self._index.rebuilds_from_source
        return rebuilds and loaded is not None and loaded.overlaps(saved_at)

    # --- public members ---

    @property
    def numItems(self) -> int:
        """The number of items."""
        return self._fitted.num_items

    @property
    def numFeatures(self) -> int:
        """The dimension of the items' vectors."""
        return self._fitted.num_features

    @property
    def placementReason(self) -> str:
        """The reason for the placement that `getPlacement` returns."""
        return self._summary.placementReason

    @property
    def items(self) -> DataFrame:
        """The items as a DataFrame.

        It has the columns position (for a replicated model, or if idCol is unset), id (if idCol is
        set), features (array of float or double, or vector if `getStorage` returns "sparse"), label
        and weight (if the items have them), and key0, key1 and so on (the columns of keyCols).
        """
        session = compat.active_session("model.items")
        return self._fitted.items_frame(session)

    def unpersist(self: Self_) -> Self_:
        """Free the memory and disk of the index on the executors.

        The model can still be used: the next search ships a replicated index again, and each later
        search of a sharded model rebuilds its shards from the items.

        Returns
        -------
        PlacedModel
            This model.
        """
        self._fitted.unpersist()
        return self

    @property
    def _fitted(self) -> Placement:
        if self._index is None:
            raise ValueError(
                f"{type(self).__name__} has no index. Create it with fit() of its estimator, or "
                f"with {type(self).__name__}.load()."
            )
        return self._index

    def write(self) -> ModelWriter:
        """Return a writer that saves this model."""
        self._fitted  # noqa: B018 - raises an error before anything is overwritten
        return ModelWriter(self)

    @classmethod
    def read(cls: type[M]) -> ModelReader[M]:
        """Return a reader that loads a saved model."""
        return ModelReader(cls)
