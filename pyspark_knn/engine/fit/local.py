"""The items of a saved model, read without Spark: an Arrow table -> `Items` and a matrix."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import Column, Row
from pyspark.sql import types as T
from pyspark.sql.pandas.types import from_arrow_type

from pyspark_knn.engine.fit.chunks import POSITION
from pyspark_knn.engine.fit.counted import CountedItems
from pyspark_knn.engine.fit.item_columns import ID, NUMBER, ItemColumn
from pyspark_knn.engine.fit.packing import pack
from pyspark_knn.engine.fit.source import ItemSource
from pyspark_knn.engine.rows.columns import Input
from pyspark_knn.engine.rows.features import Features
from pyspark_knn.engine.rows.ids import check_id_type, wire_type
from pyspark_knn.engine.rows.key_columns import check_key_type
from pyspark_knn.engine.rows.vectors import LAYOUT, VALUES

_CHUNK_BYTES = 64 << 20
"""The approximate size of a chunk, in bytes."""

_BATCH_ROWS = 1 << 16
"""The largest number of rows that are packed at a time."""

_NO_COLUMN = cast("Column", None)
"""The column of an `Input` that Spark does not read."""


def spark_schema(schema: pa.Schema, adjusted: Iterable[str] = ()) -> T.StructType:
    """Return the Spark types of the columns of a saved model.

    Parameters
    ----------
    schema : pyarrow.Schema
        The columns as Arrow reads them.
    adjusted : iterable of str
        The columns of timestamps that are stored in UTC, although their Arrow type has no time
        zone.

    Raises
    ------
    TypeError, ValueError
        If Spark has no such type.
    """
    vectors, instants = VectorUDT.sqlType().simpleString(), set(adjusted)
    fields = []
    for each in schema:
        kind = from_arrow_type(each.type, prefer_timestamp_ntz=True)
        if kind.simpleString() == vectors:
            kind = VectorUDT()
        elif each.name in instants:
            kind = T.TimestampType()
        fields.append(T.StructField(each.name, kind))
    return T.StructType(fields)


class LocalItems(CountedItems):
    """The items of a saved model, packed in this process.

    Parameters
    ----------
    table : pyarrow.Table
        The saved items.
    types : StructType
        The Spark types of their columns, see `spark_schema`.
    declared : iterable of ItemColumn
        The columns that every item has in addition to its vector.
    storage : {"auto", "dense", "sparse"}
        The saved Param `storage`.
    missing : bool
        See `ItemSource`.

    Raises
    ------
    TypeError, ValueError
        If a column has a type that is not supported, or if an item is invalid.
    """

    def __init__(
        self,
        table: pa.Table,
        types: T.StructType,
        declared: Sequence[ItemColumn],
        storage: str,
        *,
        missing: bool,
    ) -> None:
        super().__init__(_source(types, declared, storage, missing=missing))
        batches = _batches(table, types, self.source)
        packed = pack(self._request(_CHUNK_BYTES), batches)
        rows = [row for batch in packed for row in batch.to_pylist()]
        self._count([Row(**row) for row in rows])
        self._rows = [row for row in rows if row["chunk"] >= 0 and row["dim"] == self.num_features]

    def _fetched(self) -> tuple[Iterable[dict[str, Any]], Iterable[dict[str, Any]]]:
        return self._rows, self._rows


def _source(
    types: T.StructType, declared: Sequence[ItemColumn], storage: str, *, missing: bool
) -> ItemSource:
    """Return what is read of the items, as `source.saved_source` does."""
    columns: dict[str, Input] = {}
    keys: dict[str, T.DataType] = {}
    id_type = None
    for each in declared:
        if each.kind == NUMBER:
            columns[each.name] = Input(_NO_COLUMN, T.DoubleType())
            continue
        kind = types[each.name].dataType
        if each.kind == ID:
            id_type = check_id_type("items column", types[each.name])
        else:
            keys[each.name] = check_key_type("items column", types[each.name])
        columns[each.name] = Input(_NO_COLUMN, wire_type(kind))
    if POSITION in types.names:
        columns[POSITION] = Input(_NO_COLUMN, T.LongType())
    return ItemSource(
        features=Features({}, None, None),
        features_col="features",
        columns=columns,
        id_type=id_type,
        id_col=None if id_type is None else "id",
        numbers=tuple(each for each in declared if each.kind == NUMBER),
        storage=storage,
        key_types=keys,
        missing=missing,
    )


def _batches(table: pa.Table, types: T.StructType, source: ItemSource) -> Iterator[pa.RecordBatch]:
    """Yield the rows as Spark sends them to Python, see `features_of` and `ids.to_wire`."""
    for batch in table.to_batches(max_chunksize=_BATCH_ROWS):
        features = batch.column("features")
        is_vector = isinstance(types["features"].dataType, VectorUDT)
        arrays = _vector_inputs(features) if is_vector else {VALUES: features}
        for name in source.columns:
            arrays[name] = _on_wire(batch.column(name), types[name].dataType)
        yield pa.RecordBatch.from_arrays(list(arrays.values()), list(arrays))


def _on_wire(values: pa.Array, kind: T.DataType) -> pa.Array:
    if isinstance(kind, T.DateType):
        return values.cast(pa.int32())
    if isinstance(kind, (T.TimestampType, T.TimestampNTZType)):
        zone = values.type.tz
        return values.cast(pa.timestamp("us", zone)).cast(pa.int64())
    if isinstance(kind, (T.FloatType, T.DoubleType)):
        # -0.0 and 0.0 are the same id, as in Spark.
        return pc.add(values, pa.scalar(0.0, values.type))
    return values


def _vector_inputs(vectors: pa.StructArray) -> dict[str, pa.Array]:
    """Return the inputs of MLlib's vectors: their values, and the size before the indices."""
    sizes, indices, values = (pc.struct_field(vectors, n) for n in ("size", "indices", "values"))
    lengths = pc.list_value_length(indices).fill_null(0).to_numpy()
    has_size = sizes.is_valid().to_numpy(zero_copy_only=False)
    offsets = np.append(0, (lengths + has_size).cumsum()).astype(np.int32)
    is_size = np.zeros(offsets[-1], bool)
    is_size[offsets[:-1][has_size]] = True
    layout = np.empty(offsets[-1], np.int32)
    layout[is_size] = sizes.drop_null()
    # Only a damaged vector has a null index: -1 is malformed, too.
    layout[~is_size] = pc.list_flatten(indices).fill_null(-1)
    # So is a null layout, of a vector that has a size or indices, but not both.
    damaged = indices.is_valid().to_numpy(zero_copy_only=False) != has_size
    starts = pa.array(offsets, mask=np.append(damaged, False))
    return {VALUES: values, LAYOUT: pa.ListArray.from_arrays(starts, pa.array(layout))}
