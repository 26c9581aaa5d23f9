"""The columns that a fit reads from the items, and those of the items of a saved model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn.engine.fit.chunks import ASSIGNING, HIDDEN, KEY_HASH, POSITION, SERIES
from pyspark_knn.engine.fit.item_columns import ID, NUMBER, ItemColumn
from pyspark_knn.engine.rows import columns
from pyspark_knn.engine.rows.columns import Input
from pyspark_knn.engine.rows.features import Features, features_of
from pyspark_knn.engine.rows.ids import check_id_type, is_narrower_integer, to_wire, wire_type
from pyspark_knn.engine.rows.key_columns import check_key_type, key_hash
from pyspark_knn.engine.spark import hints


@dataclass(frozen=True)
class ItemSource:
    """The columns to read from a DataFrame of items, and the checks of their values.

    Attributes
    ----------
    features : Features
        The vectors.
    features_col : str
        The name of their column, for messages.
    columns : dict of str to Input
        The columns of `ItemColumn`, by name, "position" and "series" of saved items, and "key_hash"
        if there are keys. Their order breaks ties between items at the same distance.
    id_type : DataType or None
        The Spark type of the ids; None if the positions are the ids.
    id_col : str or None
        The name of the id column, for messages.
    handle_invalid : {"error", "skip", "keep"}
        What to do with an invalid vector: "skip" and "keep" drop the item.
    dtype : {"auto", "float32"}
        The type of the stored vectors; "auto" is the narrowest that keeps all values.
    numbers : tuple of ItemColumn
        The columns of numbers, whose values are checked.
    storage : {"auto", "dense", "sparse"}
        The Param `storage`; with "sparse" all vectors are packed sparse.
    key_types : dict of str to DataType
        The Spark types of the keys, by the names of their columns. Empty if there are no keys.
    missing : bool
        Whether vectors may have missing values: NaN, or null elements of arrays.
    features_param : str
        The Param that names the column of the vectors, for messages.
    """

    features: Features
    features_col: str
    columns: dict[str, Input]
    id_type: T.DataType | None = None
    id_col: str | None = None
    handle_invalid: str = "error"
    dtype: str = "auto"
    numbers: tuple[ItemColumn, ...] = ()
    storage: str = "auto"
    key_types: dict[str, T.DataType] = field(default_factory=dict)
    missing: bool = False
    features_param: str = "featuresCol"

    @property
    def sort_by(self) -> tuple[str, ...]:
        """The columns that the items are sorted by; empty to keep the order of the DataFrame.

        Among equal ids the smaller label comes first, so that ties have one answer.
        """
        if self.id_type is not None:
            return tuple(name for name in self.columns if name not in ASSIGNING)
        return (POSITION,) if POSITION in self.columns else ()

    @property
    def item_columns(self) -> dict[str, T.DataType]:
        """The types of the columns of items in a shard, except the vector; "id" comes first."""
        given = {name: each.type for name, each in self.columns.items() if name not in HIDDEN}
        return {"id": T.LongType(), **given}

    def read(self, dataset: DataFrame) -> DataFrame:
        """Return what is read of a DataFrame: the inputs of the vectors, and the columns."""
        inputs = self.features.inputs | self.columns
        return dataset.select(*(each.value.alias(name) for name, each in inputs.items()))


def item_source(
    dataset: DataFrame,
    features_col: str,
    declared: Sequence[ItemColumn],
    handle_invalid: str,
    dtype: str,
    storage: str = "auto",
    *,
    missing: bool = False,
    features: Features | None = None,
) -> ItemSource:
    """Return the columns that a fit reads from `dataset`.

    Parameters
    ----------
    dataset : DataFrame
        The items.
    features_col : str
        The column of vectors.
    declared : sequence of ItemColumn
        What else every item has; ids come first.
    handle_invalid, dtype, storage, missing
        See `ItemSource`.
    features : Features, optional
        The vectors, if they are not those of a column. Default: those of `features_col`.

    Raises
    ------
    TypeError
        If a column has a type that is not supported.
    ValueError
        If a column does not exist.
    """
    id_col, id_type = None, None
    found: dict[str, Input] = {}
    key_types: dict[str, T.DataType] = {}
    for each in declared:
        if each.kind == NUMBER:
            found[each.name] = _numbers(dataset, each)
            continue
        column = columns.field_of(dataset, each.param, each.column)
        if each.kind == ID:
            kind = id_type = check_id_type(each.param, column)
            id_col = each.column
        else:
            kind = key_types[each.name] = check_key_type(each.param, column)
        found[each.name] = Input(to_wire(columns.column(each.column), kind), wire_type(kind))
    if key_types:
        found[KEY_HASH] = Input(key_hash([found[name].value for name in key_types]), T.LongType())
    return ItemSource(
        features=features or features_of(dataset, "featuresCol", features_col),
        features_col=features_col,
        columns=found,
        id_type=id_type,
        id_col=id_col,
        handle_invalid=handle_invalid,
        dtype=dtype,
        numbers=tuple(each for each in declared if each.kind == NUMBER),
        storage=storage,
        key_types=key_types,
        missing=missing,
    )


def source_like(
    source: ItemSource,
    dim: int,
    types: dict[str, T.DataType | None],
    declared: Sequence[ItemColumn],
) -> ItemSource:
    """Return a source of items that join those of a fitted model.

    Parameters
    ----------
    source : ItemSource
        The columns to read of the new items.
    dim : int
        The dimension of the model's items, which the new vectors must have.
    types : dict of str to DataType
        The Spark types of the ids and of the keys of the model's items, by the names of their
        columns.
    declared : sequence of ItemColumn
        What every item has beside its vector.

    Raises
    ------
    TypeError
        If the new ids or keys have other types. Narrower integers are allowed.
    """
    found = dict(source.columns)
    given = {"id": source.id_type, **source.key_types}
    for each in declared:
        wanted = types.get(each.name)
        if wanted is not None and wanted != given[each.name]:
            _check_same_type(each, cast("T.DataType", given[each.name]), wanted)
            found[each.name] = Input(found[each.name].value.cast(wanted), wanted)
    keys = {name: cast("T.DataType", types[name]) for name in source.key_types}
    if keys:
        # Of the cast values, since an integer has another hash than the same one as a long.
        found[KEY_HASH] = Input(key_hash([found[name].value for name in keys]), T.LongType())
    return replace(
        source,
        features=source.features._replace(attributes=dim),
        columns=found,
        id_type=types["id"],
        key_types=keys,
    )


def _check_same_type(column: ItemColumn, given: T.DataType, wanted: T.DataType) -> None:
    """Raise a TypeError unless `given` is a type of narrower integers than `wanted`."""
    if is_narrower_integer(given, wanted):
        return
    narrower = " or a narrower integer" if isinstance(wanted, T.IntegralType) else ""
    raise TypeError(
        f"{column.param} {column.column!r} must have the type that it had at fit, "
        f"{wanted.simpleString()}{narrower}, but was actually {given.simpleString()}. Cast the "
        "column."
    )


def saved_source(
    frame: DataFrame, declared: Iterable[ItemColumn], storage: str, *, missing: bool = False
) -> ItemSource:
    """Return the columns to read from a DataFrame that `Placement.items_frame` returned.

    Parameters
    ----------
    frame : DataFrame
        Has the columns `features`, those of `declared` by their names, "position" if there are
        no ids, and "series" if the saved structure of the index needs it.
    declared : iterable of ItemColumn
        The columns that every item has in addition to its vector.
    storage : {"auto", "dense", "sparse"}
        The saved Param `storage`; "auto" in models of releases that did not have it.
    missing : bool, default=False
        See `ItemSource`.
    """
    named = [replace(each, param="items column", column=each.name) for each in declared]
    source = item_source(frame, "features", named, "error", "auto", storage, missing=missing)
    own: dict[str, T.DataType] = {POSITION: T.LongType(), SERIES: T.IntegerType()}
    there = {name: kind for name, kind in own.items() if name in frame.columns}
    more = {name: Input(F.col(name).cast(kind), kind) for name, kind in there.items()}
    return replace(source, columns={**source.columns, **more})


def _numbers(dataset: DataFrame, wanted: ItemColumn) -> Input:
    field = columns.field_of(dataset, wanted.param, wanted.column)
    if not isinstance(field.dataType, T.NumericType):
        raise TypeError(
            f"{wanted.param} {wanted.column!r} must be numeric but was actually "
            f"{field.dataType.simpleString()}; "
            + hints.number(field.name, field.dataType, classes=not wanted.fractional)
        )
    return Input(columns.column(field.name).cast("double"), T.DoubleType())
