"""Loading a model without Spark: its files are read by pyarrow, and checked as Spark's are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from pyspark_knn.engine.fit.local import LocalItems, spark_schema
from pyspark_knn.engine.placement import SHARDED
from pyspark_knn.engine.saved_index import SavedIndex, check_types
from pyspark_knn.engine.search.structures import STRUCTURE_SCHEMA
from pyspark_knn.index.registry import approximate_classes
from pyspark_knn.persistence import saved
from pyspark_knn.persistence.stages import ModelReader, SavedModel

M = TypeVar("M", bound=SavedModel)


class LocalReader(ModelReader[M]):
    """A reader of a fitted model in a process without Spark.

    Parameters
    ----------
    kind : type
        The class of the model to read.
    filesystem : pyarrow.fs.FileSystem or None
        Where the path is. None finds it by the path.
    """

    def __init__(self, kind: type[M], filesystem: fs.FileSystem | None) -> None:
        super().__init__(kind)
        self._filesystem = filesystem

    def _at(self, path: str) -> _Folder:
        if self._filesystem is not None:
            return _Folder(self._filesystem, path.rstrip("/"))
        if "://" in path or path.startswith("file:"):
            found, inside = fs.FileSystem.from_uri(path)
            return _Folder(found, inside.rstrip("/"))
        return _Folder(fs.LocalFileSystem(), path.rstrip("/"))

    def _instance(self, path: str, metadata: dict[str, Any]) -> M:
        model = super()._instance(path, metadata)
        algorithm = model.getOrDefault("algorithm")
        if model.getOrDefault("placement") == SHARDED and algorithm in approximate_classes():
            raise ValueError(
                f"{path} contains a sharded model with algorithm {algorithm!r}, whose recall holds "
                "for its shards only. Load it with Spark, or fit with placement='replicated'."
            )
        return model

    def _metadata(self, path: str) -> str | None:
        files = self._at(f"{path}/metadata").files()
        if files is None:
            return None
        lines = [line for file in files for line in file.decode(errors="replace").splitlines()]
        return "\n".join(lines[:2])

    def _restore_items(
        self, model: M, path: str, metadata: dict[str, Any], record: dict[str, Any]
    ) -> None:
        table, types = self._at(f"{path}/items").table()
        saved.check_columns(types, model._saved_columns())
        missing, storage = model._allows_missing(), model._saved_storage()
        declared = model._item_columns()
        with LocalItems(table, types, declared, storage, missing=missing) as items:
            saved.check_complete(items.num_items, items.num_features, metadata)
            if "id" not in types.names:
                saved.check_positions(_positions(table["position"]), items.num_items)
            model._has_saved_index(_LocalIndex(f"{path}/index", self._at(f"{path}/index")))
            model._restore(items, record)

    def _finish(self, model: M, path: str, text: str) -> None:
        """Do nothing: the index is in memory, and needs the files no more."""


@dataclass(frozen=True)
class _Folder:
    """A folder of files that Spark wrote."""

    filesystem: fs.FileSystem
    path: str

    def names(self) -> list[str] | None:
        """Return the paths of its files in order, without those that Spark ignores."""
        selector = fs.FileSelector(self.path, allow_not_found=True)
        if self.filesystem.get_file_info(self.path).type != fs.FileType.Directory:
            return None
        files = [each.path for each in self.filesystem.get_file_info(selector) if each.is_file]
        return sorted(each for each in files if PurePosixPath(each).name[0] not in "._")

    def files(self) -> list[bytes] | None:
        """Return the content of its files in order; None if there is no such folder."""
        names = self.names()
        if names is None:
            return None
        contents = []
        for name in names:
            with self.filesystem.open_input_stream(name) as stream:
                contents.append(stream.read())
        return contents

    def table(self) -> tuple[pa.Table, Any]:
        """Return the rows of its Parquet files, and the Spark types of their columns."""
        names = self.names()
        if not names:
            raise ValueError(f"{self.path} contains no files")
        table = pq.read_table(
            names, filesystem=self.filesystem, partitioning=None, coerce_int96_timestamp_unit="us"
        )
        columns = pq.ParquetFile(names[0], filesystem=self.filesystem).schema
        stored = {
            each.path: each.physical_type for each in map(columns.column, range(len(columns)))
        }
        # Spark stores timestamps with a time zone as INT96, which has none in Arrow.
        instants = [
            each.name
            for each in table.schema
            if pa.types.is_timestamp(each.type)
            and (each.type.tz is not None or stored.get(each.name) == "INT96")
        ]
        plain = pa.schema([each.with_type(_plain(each.type)) for each in table.schema])
        return table.cast(plain), spark_schema(plain, instants)


@dataclass(frozen=True)
class _LocalIndex(SavedIndex):
    """The saved structure of an approximate index, in a folder that pyarrow reads."""

    path: str
    folder: _Folder

    def _rows(self) -> list[dict[str, Any]] | None:
        if not self.folder.names():
            return None
        table, types = self.folder.table()
        known = {each.name: each.dataType.simpleString() for each in types.fields}
        check_types(known, STRUCTURE_SCHEMA)
        rows: list[dict[str, Any]] = table.select(STRUCTURE_SCHEMA.names).to_pylist()
        return rows


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return the type that Spark reads in place of one that only Arrow knows.

    Files that Arrow wrote again name such types in their metadata, which Spark ignores.
    """
    types = pa.types
    if types.is_dictionary(kind):
        return _plain(kind.value_type)
    if types.is_large_string(kind):
        return pa.string()
    if types.is_large_binary(kind):
        return pa.binary()
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(_plain(kind.value_type)))
    if types.is_struct(kind):
        return pa.struct([each.with_type(_plain(each.type)) for each in kind])
    return kind


def _positions(positions: pa.ChunkedArray) -> tuple[int, int, int]:
    ends = pc.min_max(positions).as_py()
    return ends["min"], ends["max"], pc.count_distinct(positions).as_py()
