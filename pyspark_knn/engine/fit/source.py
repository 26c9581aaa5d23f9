"""The columns that a fit reads from the items, and those of the items of a saved model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import cast

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn.engine.fit.chunks import POSITION
from pyspark_knn.engine.fit.item_columns import ItemColumn
from pyspark_knn.engine.rows import columns
from pyspark_knn.engine.rows.columns import Input
from pyspark_knn.engine.rows.features import Features, features_of
from pyspark_knn.engine.rows.ids import check_id_type, is_narrower_integer, to_wire, wire_type
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
        The columns of `ItemColumn`, by name, and "position" of saved items. Their order breaks ties
        between items at the same distance.
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

    @property
    def sort_by(self) -> tuple[str, ...]:
        """The columns that the items are sorted by; empty to keep the order of the DataFrame.

        Among equal ids the smaller label comes first, so that ties have one answer.
        """
        if self.id_type is not None:
            return tuple(self.columns)
        return (POSITION,) if POSITION in self.columns else ()

    @property
    def item_columns(self) -> dict[str, T.DataType]:
        """The types of the columns of items in a shard, except the vector; "id" comes first."""
        given = {name: each.type for name, each in self.columns.items() if name != POSITION}
        return {"id": T.LongType(), **given}


def item_source(
    dataset: DataFrame,
    features_col: str,
    declared: Sequence[ItemColumn],
    handle_invalid: str,
    dtype: str,
    storage: str = "auto",
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
    handle_invalid, dtype, storage : str
        See `ItemSource`.

    Raises
    ------
    TypeError
        If a column has a type that is not supported.
    ValueError
        If a column does not exist.
    """
    id_col, id_type = None, None
    found: dict[str, Input] = {}
    for each in declared:
        if each.numeric:
            found[each.name] = _numbers(dataset, each)
            continue
        field = columns.field_of(dataset, each.param, each.column)
        id_col, id_type = each.column, check_id_type(each.param, field)
        found[each.name] = Input(to_wire(columns.column(id_col), id_type), wire_type(id_type))
    return ItemSource(
        features=features_of(dataset, "featuresCol", features_col),
        features_col=features_col,
        columns=found,
        id_type=id_type,
        id_col=id_col,
        handle_invalid=handle_invalid,
        dtype=dtype,
        numbers=tuple(each for each in declared if each.numeric),
        storage=storage,
    )


def source_like(source: ItemSource, dim: int, id_type: T.DataType | None) -> ItemSource:
    """Return a source of items that join others of a fitted model.

    Parameters
    ----------
    source : ItemSource
        The columns to read of the new items.
    dim : int
        The dimension of the model's items, which the new vectors must have.
    id_type : DataType or None
        The Spark type of the ids of the model's items.

    Raises
    ------
    TypeError
        If the new ids have another type. Narrower integers are allowed.
    """
    features = source.features._replace(attributes=dim)
    if id_type is None or source.id_type == id_type:
        return replace(source, features=features)
    given = cast("T.DataType", source.id_type)
    if not is_narrower_integer(given, id_type):
        narrower = " or a narrower integer" if isinstance(id_type, T.IntegralType) else ""
        raise TypeError(
            f"idCol {source.id_col!r} must be of the type of the model's ids, "
            f"{id_type.simpleString()}{narrower}, but was actually {given.simpleString()}. Cast "
            "the column."
        )
    ids = Input(source.columns["id"].value.cast(id_type), id_type)
    return replace(
        source, features=features, columns={**source.columns, "id": ids}, id_type=id_type
    )


def saved_source(frame: DataFrame, declared: Iterable[ItemColumn], storage: str) -> ItemSource:
    """Return the columns to read from a DataFrame that `Placement.items_frame` returned.

    Parameters
    ----------
    frame : DataFrame
        Has the columns `features`, those of `declared` by their names, and "position" if there
        are no ids.
    declared : iterable of ItemColumn
        The columns that every item has in addition to its vector.
    storage : {"auto", "dense", "sparse"}
        The saved Param `storage`; "auto" in models of releases that did not have it.
    """
    named = [replace(each, param="items column", column=each.name) for each in declared]
    source = item_source(frame, "features", named, "error", "auto", storage)
    if POSITION not in frame.columns:
        return source
    position = Input(F.col(POSITION), T.LongType())
    return replace(source, columns={**source.columns, POSITION: position})


def _numbers(dataset: DataFrame, wanted: ItemColumn) -> Input:
    field = columns.field_of(dataset, wanted.param, wanted.column)
    if not isinstance(field.dataType, T.NumericType):
        raise TypeError(
            f"{wanted.param} {wanted.column!r} must be numeric but was actually "
            f"{field.dataType.simpleString()}; "
            + hints.number(field.name, field.dataType, classes=not wanted.fractional)
        )
    return Input(columns.column(field.name).cast("double"), T.DoubleType())
