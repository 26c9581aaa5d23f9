"""Saving and loading: the only module that knows the files of a saved stage.

A saved estimator consists of MLlib's ``metadata/``. A saved model also has ``items/``, which are
Parquet files of position, id, features, label and weight, and, if its index is approximate,
``index/``, with the arrays that are dear to compute. There is no pickle in a saved model, so
loading it does not run its code. All files are written and read through Spark, so they can be in
any storage that Spark supports.
"""

from __future__ import annotations

import contextlib
import uuid
from importlib import metadata as distributions
from typing import Any, Generic, TypeVar

from pyspark.errors import PySparkException
from pyspark.ml.param import Params
from pyspark.ml.util import DefaultParamsWriter, MLReadable, MLReader, MLWritable, MLWriter
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pyspark_knn.engine.fit.counted import CountedItems
from pyspark_knn.engine.fit.item_columns import ItemColumn
from pyspark_knn.engine.fit.packed import PackedItems
from pyspark_knn.engine.fit.source import saved_source
from pyspark_knn.engine.placement import Placement
from pyspark_knn.engine.saved_index import IndexFolder, SavedIndex
from pyspark_knn.engine.spark import compat
from pyspark_knn.engine.spark.folders import SavedAt, address, literal, replacing
from pyspark_knn.persistence import saved

_ATTEMPTS = 3
"""How often loading a model is tried if it is overwritten meanwhile."""

S = TypeVar("S", bound=Params)
M = TypeVar("M", bound="SavedModel")
Loaded = TypeVar("Loaded", bound="Loadable")


class Loadable(MLReadable[Any]):
    """A stage whose `load` returns its own class, for type checkers too."""

    @classmethod
    def load(cls: type[Loaded], path: str) -> Loaded:
        """Load a saved stage; short for ``read().load(path)``.

        Parameters
        ----------
        path : str
            The folder of the saved stage.

        Returns
        -------
        object
            The stage, an instance of this class.

        Raises
        ------
        FileNotFoundError
            If there is no saved stage at `path`.
        ValueError
            If the saved stage has another class, is damaged, or has the format of a newer release.
        """
        loaded: Loaded = cls.read().load(path)
        return loaded


class SavedModel(Params, Loadable, MLWritable):
    """The interface of a fitted model for its writer and its reader."""

    @property
    def numItems(self) -> int:
        """Number of items."""
        raise NotImplementedError

    @property
    def numFeatures(self) -> int:
        """Dimension of the items' vectors."""
        raise NotImplementedError

    @property
    def _fitted(self) -> Placement:
        """The index in its placement."""
        raise NotImplementedError

    def _fit_record(self) -> dict[str, Any]:
        """Return the fit summary to save in the metadata, as JSON values."""
        raise NotImplementedError

    def unpersist(self) -> Any:
        """Free the memory that the model uses on the executors."""
        raise NotImplementedError

    def _has_saved_index(self, saved: SavedIndex) -> None:
        """Remember where the structure of the index is saved, until it is restored."""
        raise NotImplementedError

    def _restore(self, packed: CountedItems, record: dict[str, Any]) -> None:
        """Restore the model from its packed items and its saved fit summary."""
        raise NotImplementedError

    def _item_columns(self) -> list[ItemColumn]:
        """Return the columns that every item has in addition to its vector."""
        raise NotImplementedError

    def _saved_storage(self) -> str:
        """Return the storage of the index."""
        raise NotImplementedError

    def _saved_columns(self) -> dict[str, tuple[str, ...]]:
        """Return the columns of saved items with their types, see `saved.check_columns`."""
        raise NotImplementedError

    def _allows_missing(self) -> bool:
        """Whether the vectors of items may have missing values."""
        raise NotImplementedError

    def _came_from(self, saved_at: SavedAt) -> None:
        """Remember the folder that this model was loaded from."""
        raise NotImplementedError

    def _needs(self, saved_at: SavedAt) -> bool:
        """Whether the index may have to be rebuilt from the files of that folder."""
        raise NotImplementedError


class _Writer(MLWriter):
    """A writer of a stage; an overwritten folder is replaced only after the new one is complete."""

    def __init__(self, instance: Params) -> None:
        super().__init__()
        self._instance = instance

    def save(self, path: str) -> None:
        """Save the stage to `path`.

        With `overwrite` the new folder is written next to the old one, which is kept until the new
        one is complete.

        Parameters
        ----------
        path : str
            The folder to write.

        Raises
        ------
        FileExistsError
            If `path` contains a saved stage and `overwrite` was not called.
        ValueError
            If the stage could not be loaded again, or if a sharded model would overwrite its own
            files.
        """
        saved.check_path(path)
        saved.check_uid(self._instance.uid)
        saved.check_limits(self._instance)
        session = self.sparkSession
        saved_at = SavedAt(address(session, path), saved.read_metadata(session, path))
        if not self.shouldOverwrite:
            if saved_at.metadata is not None:
                raise FileExistsError(
                    f"{path} already contains a saved stage. To replace it, use "
                    "write().overwrite().save(path)."
                )
            self._save_to(path, saved_at)
            return
        self._check_overwrite(path, saved_at)
        if saved_at.metadata is None and not compat.can_rename(session):
            compat.remove_folder(session, path)  # not a saved stage
            self.saveImpl(path)
            return
        with replacing(session, path, self._copy) as folder:
            self.saveImpl(folder)

    def _save_to(self, path: str, saved_at: SavedAt) -> None:
        self.saveImpl(path)

    def _check_overwrite(self, path: str, saved_at: SavedAt) -> None:
        """Raise a ValueError if the stage still needs the files at `path`."""

    def _copy(self, source: str, target: str) -> None:
        """Copy a saved stage through Spark, the metadata last: a partial copy is not loaded."""
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
    """A writer of the Params of an estimator."""

    def saveImpl(self, path: str) -> None:
        """Write the metadata to `path`."""
        self._save_metadata(path, {})


class ModelWriter(_Writer):
    """A writer of a fitted model: its items, then its Params and its fit summary."""

    def __init__(self, instance: SavedModel) -> None:
        super().__init__(instance)
        self._model = instance

    def _check_overwrite(self, path: str, saved_at: SavedAt) -> None:
        if self._model._needs(saved_at):
            raise ValueError(
                f"{path} cannot be overwritten by the sharded model that was loaded from there (or "
                "from a folder in it), because lost shards are rebuilt from its files. Save the "
                "model to another path."
            )

    def _save_to(self, path: str, saved_at: SavedAt) -> None:
        try:
            self.saveImpl(path)
        except Exception as error:
            if not self._model._needs(saved_at):
                raise
            raise ValueError(
                f"{path} contained the files of this sharded model, which were deleted before the "
                "model was saved again, and its shards are no longer in memory. PipelineModel "
                "deletes a folder before it overwrites it: save a PipelineModel with a sharded "
                "model to a path other than the one it was loaded from."
            ) from error

    def saveImpl(self, path: str) -> None:
        """Write the items, then the metadata, so that an incomplete model cannot be loaded."""
        model = self._model
        sizes = {"numItems": model.numItems, "numFeatures": model.numFeatures}
        record = model._fit_record()
        model._fitted.saved_frame(self.sparkSession).write.parquet(f"{path}/items")
        structure = model._fitted.structure_frame(self.sparkSession)
        if structure is not None:
            structure.write.parquet(f"{path}/index")
        self._save_metadata(path, {**sizes, "fit": record})

    def _copy(self, source: str, target: str) -> None:
        items = self.sparkSession.read.parquet(literal(f"{source}/items"))
        items.write.parquet(f"{target}/items")
        if self._model._fitted.structure_frame(self.sparkSession) is not None:
            index = self.sparkSession.read.parquet(literal(f"{source}/index"))
            index.write.parquet(f"{target}/index")
        super()._copy(source, target)


class StageReader(MLReader[Any], Generic[S]):
    """A reader of a saved estimator.

    Parameters
    ----------
    kind : type
        The class of the stage to read.
    """

    def __init__(self, kind: type[S]) -> None:
        super().__init__()
        self._kind = kind

    def load(self, path: str) -> S:
        """Load the stage that was saved to `path`.

        Parameters
        ----------
        path : str
            The folder of the saved stage.

        Returns
        -------
        Params
            The stage, with the saved uid and Params.

        Raises
        ------
        FileNotFoundError
            If there is no saved stage at `path`.
        ValueError
            If the saved stage has another class, is damaged, or has the format of a newer release.
        """
        return self._instance(path, self._parsed(path, self._read(path)))

    def _metadata(self, path: str) -> str | None:
        return saved.read_metadata(self.sparkSession, path)

    def _read(self, path: str) -> str:
        saved.check_path(path)
        text = self._metadata(path)
        if text is None:
            raise FileNotFoundError(f"no saved {self._kind.__name__} exists at {path}")
        return text

    def _parsed(self, path: str, text: str) -> dict[str, Any]:
        try:
            found = saved.parse_metadata(text)
        except ValueError as error:
            raise ValueError(f"{path}/metadata is damaged: {compat.reason(error)}") from error
        expected = f"{self._kind.__module__}.{self._kind.__qualname__}"
        if found["class"] != expected:
            raise ValueError(
                f"{path} contains a {found['class'][:80]}, not a {expected}. Load it with its own "
                "class."
            )
        if found["formatVersion"] > saved.FORMAT_VERSION:
            raise ValueError(
                f"{path} has format version {saved.shown(found['formatVersion'])}, but this "
                f"release of pyspark_knn supports at most {saved.FORMAT_VERSION}. It was saved by "
                f"a newer release, with {saved.shown(found.get('libraryVersions'))}."
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
    """A reader of a fitted model, which builds its index again."""

    def load(self, path: str) -> M:
        """Load the model that was saved to `path`; see `StageReader.load`."""
        for _ in range(_ATTEMPTS):
            text = self._read(path)
            try:
                model = self._restored(path, text)
            except ValueError:
                if self._metadata(path) == text:
                    raise
                continue  # the metadata and the items were those of two models
            if self._metadata(path) == text:
                self._finish(model, path, text)
                return model
            model.unpersist()
        raise ValueError(
            f"{path} was overwritten during each of {_ATTEMPTS} attempts to load it. Load it again."
        )

    def _restored(self, path: str, text: str) -> M:
        metadata = self._parsed(path, text)
        model = self._instance(path, metadata)
        try:
            for name in ("numItems", "numFeatures"):
                saved.integer_field(metadata, name, 1)
            record = saved.fit_record(metadata)
            self._restore_items(model, path, metadata, record)
        except (PySparkException, OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged: {compat.reason(error)}") from error
        except Exception as error:
            if type(error).__module__.startswith("py4j."):
                raise ValueError(f"{path} is damaged: {compat.reason(error)}") from error
            raise
        return model

    def _restore_items(
        self, model: M, path: str, metadata: dict[str, Any], record: dict[str, Any]
    ) -> None:
        """Read the items of a model, check them, and index them."""
        frame = self.sparkSession.read.parquet(literal(f"{path}/items"))
        saved.check_columns(frame.schema, model._saved_columns())
        missing, storage = model._allows_missing(), model._saved_storage()
        source = saved_source(frame, model._item_columns(), storage, missing=missing)
        with PackedItems(frame, source) as packed:
            saved.check_complete(packed.num_items, packed.num_features, metadata)
            if "id" not in frame.columns:
                saved.check_positions(_positions(frame), packed.num_items)
            model._has_saved_index(IndexFolder(self.sparkSession, f"{path}/index"))
            model._restore(packed, record)

    def _finish(self, model: M, path: str, text: str) -> None:
        """Tell the model where it was loaded from."""
        model._came_from(SavedAt(address(self.sparkSession, path), text))


def _positions(frame: DataFrame) -> tuple[int, int, int]:
    positions = F.min("position"), F.max("position"), F.count_distinct("position")
    least, most, count = frame.agg(*positions).collect()[0]
    return least, most, count


def _versions() -> dict[str, str]:
    """Return the versions of the libraries; a package shipped as a zip file has none."""
    found = {}
    for name in ("pyspark_knn", "pyspark", "scikit-learn", "numpy"):
        with contextlib.suppress(distributions.PackageNotFoundError):
            found[name] = distributions.version(name)
    return found
