"""Saving and loading: the only room that knows the files of a saved stage or model.

A saved estimator is MLlib's ``metadata/`` alone. A saved model has, beside it, ``items/``: Parquet
of position, id, features, label and weight. There is no pickle in it, so that loading a model runs
no code from it; everything is written and read through Spark, so that it lives wherever Spark can
write.
"""

from __future__ import annotations

import contextlib
import uuid
from importlib import metadata as distributions
from typing import Any, Generic, TypeVar

from pyspark.errors import PySparkException
from pyspark.ml.param import Params
from pyspark.ml.util import DefaultParamsWriter, MLReadable, MLReader, MLWritable, MLWriter
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DataType

from pyspark_knn import saved
from pyspark_knn.engine import compat
from pyspark_knn.engine.folders import SavedAt, address, literal, replacing
from pyspark_knn.engine.packed import ItemSource, PackedItems
from pyspark_knn.engine.placement import saved_source

_ATTEMPTS = 3
"""How often a model is loaded that somebody else overwrites meanwhile."""

S = TypeVar("S", bound=Params)
M = TypeVar("M", bound="SavedModel")


class SavedModel(Params, MLReadable[Any], MLWritable):
    """A fitted model, as its writer and its reader see it."""

    @property
    def numItems(self) -> int:
        """How many items there are."""
        raise NotImplementedError

    @property
    def numFeatures(self) -> int:
        """The dimension of their vectors."""
        raise NotImplementedError

    def items_frame(self, session: SparkSession) -> DataFrame:
        """The items: position, id, features, label, weight, as far as there are."""
        raise NotImplementedError

    def fit_record(self) -> dict[str, Any]:
        """What is to be known of the fit; goes into the metadata as JSON."""
        raise NotImplementedError

    def unpersist(self) -> Any:
        """Free what the executors hold of it."""
        raise NotImplementedError

    def restore(
        self, packed: PackedItems, id_type: DataType | None, record: dict[str, Any]
    ) -> None:
        """Take back in what was saved."""
        raise NotImplementedError

    def saved_columns(self) -> dict[str, tuple[str, ...]]:
        """The columns that its saved items must have, see `saved.check_columns`."""
        raise NotImplementedError

    def read_as(self, source: ItemSource) -> ItemSource:
        """How to read its saved items, given how anybody's are read."""
        raise NotImplementedError

    def came_from(self, place: SavedAt) -> None:
        """Remember where this model was loaded from."""
        raise NotImplementedError

    def needs(self, place: SavedAt) -> bool:
        """Whether this model cannot do without what is saved there."""
        raise NotImplementedError


class _Writer(MLWriter):
    """Refuses to write into what is there already; replaces it only by what is whole."""

    def __init__(self, instance: Params) -> None:
        super().__init__()
        self._instance = instance

    def save(self, path: str) -> None:
        """Save to `path`.

        With `overwrite` the new folder is written beside the old one, which stays until the new one
        is complete.

        Raises
        ------
        FileExistsError
            If there is a saved stage already, and `overwrite` was not called.
        ValueError
            If what would be saved could not be loaded.
        """
        saved.check_uid(self._instance.uid)
        saved.check_limits(self._instance)
        session = self.sparkSession
        place = SavedAt(address(session, path), saved.read_metadata(session, path))
        if not self.shouldOverwrite:
            if place.metadata is not None:
                raise FileExistsError(
                    f"{path} holds a saved stage already: use write().overwrite().save(path)"
                )
            self._save_to(path, place)
            return
        self._check_overwrite(path, place)
        if place.metadata is None and not compat.can_rename(session):
            compat.remove_folder(session, path)  # nothing that could be loaded
            self.saveImpl(path)
            return
        with replacing(session, path, self._copy) as folder:
            self.saveImpl(folder)

    def _save_to(self, path: str, place: SavedAt) -> None:
        self.saveImpl(path)

    def _check_overwrite(self, path: str, place: SavedAt) -> None:
        """Refuse to overwrite what is needed."""

    def _copy(self, source: str, target: str) -> None:
        """Copy what `saveImpl` wrote, by Spark; what makes it loadable comes last."""
        text = self.sparkSession.read.text(literal(f"{source}/metadata"))
        text.coalesce(1).write.text(f"{target}/metadata")

    def _save_metadata(self, path: str, extra: dict[str, Any]) -> None:
        DefaultParamsWriter.saveMetadata(
            self._instance,
            path,
            compat.metadata_session(self.sparkSession),
            extraMetadata={
                "formatVersion": saved.FORMAT_VERSION,
                "libraryVersions": _versions(),
                "nonce": uuid.uuid4().hex,
                **extra,
            },
        )


class StageWriter(_Writer):
    """Writes an estimator: its Params."""

    def saveImpl(self, path: str) -> None:
        """Write the metadata."""
        self._save_metadata(path, {})


class ModelWriter(_Writer):
    """Writes a fitted model: its items, and then its Params and what it is to know of itself."""

    def __init__(self, instance: SavedModel) -> None:
        super().__init__(instance)
        self._model = instance

    def _check_overwrite(self, path: str, place: SavedAt) -> None:
        if self._model.needs(place):
            raise ValueError(
                f"a sharded model that was loaded from {path} (or from within it) cannot be "
                "overwritten by itself, because lost shards are rebuilt from its files: save it "
                "elsewhere"
            )

    def _save_to(self, path: str, place: SavedAt) -> None:
        try:
            self.saveImpl(path)
        except Exception as error:
            if not self._model.needs(place):
                raise
            raise ValueError(
                f"{path} held the files of this sharded model, which were deleted before it could "
                "be saved again, and its shards were no longer in memory. The writer of a "
                "PipelineModel deletes first what it overwrites: save a PipelineModel with a "
                "sharded model elsewhere than where it was loaded from"
            ) from error

    def saveImpl(self, path: str) -> None:
        """Write the items, then the metadata: without the latter nothing can be loaded."""
        model = self._model
        facts = {"numItems": model.numItems, "numFeatures": model.numFeatures}
        record = model.fit_record()
        model.items_frame(self.sparkSession).write.parquet(f"{path}/items")
        self._save_metadata(path, {**facts, "fit": record})

    def _copy(self, source: str, target: str) -> None:
        items = self.sparkSession.read.parquet(literal(f"{source}/items"))
        items.write.parquet(f"{target}/items")
        super()._copy(source, target)


class StageReader(MLReader[Any], Generic[S]):
    """Reads an estimator back.

    Parameters
    ----------
    kind : type
        The class that is expected at the path.
    """

    def __init__(self, kind: type[S]) -> None:
        super().__init__()
        self._kind = kind

    def load(self, path: str) -> S:
        """Load from `path`.

        Raises
        ------
        FileNotFoundError
            If there is no saved stage.
        ValueError
            If there is another class, a format from a newer release, or something unreadable.
        """
        return self._instance(path, self._parsed(path, self._read(path)))

    def _read(self, path: str) -> str:
        text = saved.read_metadata(self.sparkSession, path)
        if text is None:
            raise FileNotFoundError(f"there is no saved {self._kind.__name__} at {path}")
        return text

    def _parsed(self, path: str, text: str) -> dict[str, Any]:
        try:
            found = saved.parse_metadata(text)
        except ValueError as error:
            raise ValueError(f"{path}/metadata is damaged: {compat.reason(error)}") from error
        expected = f"{self._kind.__module__}.{self._kind.__qualname__}"
        if found["class"] != expected:
            raise ValueError(
                f"{path} holds a {found['class'][:80]}, not a {expected}: load it with that class"
            )
        if found["formatVersion"] > saved.FORMAT_VERSION:
            raise ValueError(
                f"{path} has format {saved.shown(found['formatVersion'])}, and this release of "
                f"pyspark_knn reads up to {saved.FORMAT_VERSION}: it was saved by a newer release, "
                f"with {saved.shown(found.get('libraryVersions'))}"
            )
        return found

    def _instance(self, path: str, metadata: dict[str, Any]) -> S:
        instance = self._kind()
        instance._resetUid(metadata["uid"])
        try:
            saved.set_params(instance, metadata)
        except ValueError as error:
            raise ValueError(f"{path}/metadata is damaged: {compat.reason(error)}") from error
        return instance


class ModelReader(StageReader[M]):
    """Reads a fitted model back and builds its index anew."""

    def load(self, path: str) -> M:
        """Load from `path`; for the errors see `StageReader.load`."""
        for _ in range(_ATTEMPTS):
            text = self._read(path)
            try:
                model = self._restored(path, text)
            except ValueError:
                if saved.read_metadata(self.sparkSession, path) == text:
                    raise
                continue  # these were the metadata of one model, and items of another
            if saved.read_metadata(self.sparkSession, path) == text:
                place = SavedAt(address(self.sparkSession, path), text)
                model.came_from(place)
                return model
            model.unpersist()
        raise ValueError(
            f"{path} was overwritten while it was being loaded, {_ATTEMPTS} times: load it again"
        )

    def _restored(self, path: str, text: str) -> M:
        metadata = self._parsed(path, text)
        model = self._instance(path, metadata)
        try:
            for name in ("numItems", "numFeatures"):
                saved.integer_field(metadata, name, 1)
            record = saved.fit_record(metadata)
            frame = self.sparkSession.read.parquet(literal(f"{path}/items"))
            saved.check_columns(frame, model.saved_columns())
            with PackedItems(frame, model.read_as(saved_source(frame))) as packed:
                saved.check_complete(packed.num_items, packed.num_features, metadata)
                if "id" not in frame.columns:
                    _check_positions(frame, packed.num_items)
                model.restore(packed, _id_type(frame), record)
        except (PySparkException, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged: {compat.reason(error)}") from error
        except Exception as error:
            if type(error).__module__.startswith("py4j."):
                raise ValueError(f"{path} is damaged: {compat.reason(error)}") from error
            raise
        return model


def _check_positions(frame: DataFrame, count: int) -> None:
    """Refuse positions that are not each item's own: neighbours are named by them."""
    positions = F.min("position"), F.max("position"), F.count_distinct("position")
    if tuple(frame.agg(*positions).collect()[0]) != (0, count - 1, count):
        raise ValueError(f"positions must be 0 to {count - 1}, each of one item")


def _id_type(frame: DataFrame) -> DataType | None:
    return frame.schema["id"].dataType if "id" in frame.columns else None


def _versions() -> dict[str, str]:
    """What a reader of the files may want to know; a package shipped as a zip tells no version."""
    found = {}
    for name in ("pyspark_knn", "pyspark", "scikit-learn", "numpy"):
        with contextlib.suppress(distributions.PackageNotFoundError):
            found[name] = distributions.version(name)
    return found
