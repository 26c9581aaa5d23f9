"""Saving and loading: the only room that knows the files of a saved stage or model.

A saved estimator is MLlib's ``metadata/`` alone. A saved model has, beside it, ``items/``: Parquet
of position, id, features, label and weight. There is no pickle in it, so that loading a model runs
no code from it; everything is written and read through Spark, so that it lives wherever Spark can
write.
"""

from __future__ import annotations

import contextlib
import json
from importlib import metadata as distributions
from typing import Any, Generic, Protocol, TypeVar, cast

from pyspark.errors import PySparkException
from pyspark.ml.param import Params
from pyspark.ml.util import (
    DefaultParamsReader,
    DefaultParamsWriter,
    MLReadable,
    MLReader,
    MLWritable,
    MLWriter,
)
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import DataType

from pyspark_knn.engine import compat
from pyspark_knn.engine.packed import PackedItems
from pyspark_knn.engine.placement import saved_source

FORMAT_VERSION = 1
"""Goes up when an older release could not read what this one writes."""

S = TypeVar("S", bound="SavedStage")


class SavedStage(Params, MLReadable[Any], MLWritable):
    """A stage or a model that this room saves and loads."""


class SavedModel(Protocol):
    """What a model offers to be saved and loaded."""

    @property
    def numItems(self) -> int:
        """How many items there are."""

    @property
    def numFeatures(self) -> int:
        """The dimension of their vectors."""

    def items_frame(self, session: SparkSession) -> DataFrame:
        """The items: position, id, features, label, weight, as far as there are."""

    def fit_record(self) -> dict[str, Any]:
        """What is to be known of the fit; goes into the metadata as JSON."""

    def restore(
        self, packed: PackedItems, id_type: DataType | None, record: dict[str, Any]
    ) -> None:
        """Take back in what was saved."""

    def came_from(self, path: str) -> None:
        """Remember where this model was loaded from."""

    def needs(self, path: str) -> bool:
        """Whether this model cannot do without what is saved at `path`."""


class _Writer(MLWriter):
    """Refuses to write into what is there already; overwriting works on every kind of session."""

    def __init__(self, instance: Params) -> None:
        super().__init__()
        self._instance = instance

    def save(self, path: str) -> None:
        """Save to `path`.

        Raises
        ------
        FileExistsError
            If there is a saved stage already, and `overwrite` was not called.
        """
        if not self.shouldOverwrite and _metadata(self.sparkSession, path) is not None:
            raise FileExistsError(
                f"{path} holds a saved stage already: use write().overwrite().save(path)"
            )
        super().save(path)

    def _handleOverwrite(self, path: str) -> None:
        if compat.is_connect(self.sparkSession):
            compat.remove_on_server(path)
        else:
            super()._handleOverwrite(path)

    def _save_metadata(self, path: str, extra: dict[str, Any]) -> None:
        DefaultParamsWriter.saveMetadata(
            self._instance,
            path,
            compat.metadata_session(self.sparkSession),
            extraMetadata={
                "formatVersion": FORMAT_VERSION,
                "libraryVersions": _versions(),
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

    def save(self, path: str) -> None:
        """Save to `path`.

        Raises
        ------
        FileExistsError
            If there is a saved stage already, and `overwrite` was not called.
        ValueError
            If a sharded model was loaded from there: lost shards are built again out of its files.
        """
        if self.shouldOverwrite and cast("SavedModel", self._instance).needs(path):
            raise ValueError(
                f"a sharded model that was loaded from {path} cannot be overwritten by itself: "
                "save it elsewhere"
            )
        super().save(path)

    def saveImpl(self, path: str) -> None:
        """Write the items, then the metadata: without the latter nothing can be loaded."""
        model = cast("SavedModel", self._instance)
        model.items_frame(self.sparkSession).write.parquet(f"{path}/items")
        facts = {"numItems": model.numItems, "numFeatures": model.numFeatures}
        self._save_metadata(path, {**facts, "fit": model.fit_record()})


class StageReader(MLReader[S], Generic[S]):
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
        return self._instance(self._read_metadata(path))

    def _read_metadata(self, path: str) -> dict[str, Any]:
        text = _metadata(self.sparkSession, path)
        if text is None:
            raise FileNotFoundError(f"there is no saved {self._kind.__name__} at {path}")
        try:
            found: dict[str, Any] = json.loads(text)
            name, version = str(found["class"]), int(found.get("formatVersion", 0))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}/metadata is damaged: {error}") from error
        expected = f"{self._kind.__module__}.{self._kind.__qualname__}"
        if name != expected:
            raise ValueError(f"{path} holds a {name}, not a {expected}: load it with that class")
        if version > FORMAT_VERSION:
            raise ValueError(
                f"{path} has format {version}, and this release of pyspark_knn reads up to "
                f"{FORMAT_VERSION}: it was saved by a newer release, "
                f"with {found.get('libraryVersions')}"
            )
        return DefaultParamsReader._parseMetaData(text, expected)

    def _instance(self, metadata: dict[str, Any]) -> S:
        instance = self._kind()
        instance._resetUid(metadata["uid"])
        DefaultParamsReader.getAndSetParams(instance, metadata)
        return instance


class ModelReader(StageReader[S]):
    """Reads a fitted model back and builds its index anew."""

    def load(self, path: str) -> S:
        """Load from `path`; for the errors see `StageReader.load`."""
        metadata = self._read_metadata(path)
        model = self._instance(metadata)
        try:
            frame = self.sparkSession.read.parquet(f"{path}/items")
            with PackedItems(frame, saved_source(frame)) as packed:
                _check_complete(packed, metadata)
                cast("SavedModel", model).restore(packed, _id_type(frame), metadata["fit"])
            cast("SavedModel", model).came_from(path)
        except (PySparkException, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged: {_first_line(error)}") from error
        except Exception as error:
            if type(error).__module__.startswith("py4j."):
                raise ValueError(f"{path} is damaged: {_first_line(error)}") from error
            raise
        return model


def _check_complete(packed: PackedItems, metadata: dict[str, Any]) -> None:
    """Refuse items of which a file is missing: Parquet itself would not notice."""
    saved = metadata["numItems"], metadata["numFeatures"]
    found = packed.num_items, packed.num_features
    if found != saved:
        raise ValueError(
            f"{saved[0]} items of {saved[1]} dimensions were saved, but there are {found[0]} of "
            f"{found[1]}"
        )


def _id_type(frame: DataFrame) -> DataType | None:
    return frame.schema["id"].dataType if "id" in frame.columns else None


def _metadata(session: SparkSession, path: str) -> str | None:
    """The metadata of a saved stage; None where there is none."""
    try:
        rows = session.read.text(f"{path}/metadata").take(1)
    except PySparkException as error:
        if "PATH_NOT_FOUND" in str(error) or "does not exist" in str(error):
            return None
        raise
    return str(rows[0][0]) if rows else ""


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]


def _versions() -> dict[str, str]:
    """What a reader of the files may want to know; a package shipped as a zip tells no version."""
    found = {}
    for name in ("pyspark_knn", "pyspark", "scikit-learn", "numpy"):
        with contextlib.suppress(distributions.PackageNotFoundError):
            found[name] = distributions.version(name)
    return found
