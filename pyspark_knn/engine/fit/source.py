"""The columns that a fit reads from the items, and those of the items of a saved model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn.engine.fit.chunks import POSITION
from pyspark_knn.engine.fit.packing import NumberRule
from pyspark_knn.engine.rows import columns
from pyspark_knn.engine.rows.columns import Input
from pyspark_knn.engine.rows.features import Features, features_of
from pyspark_knn.engine.rows.ids import check_id_type, to_wire, wire_type
from pyspark_knn.engine.spark import hints


@dataclass(frozen=True)
class ItemColumn:
    """A column that every item has in addition to its vector.

    A stage lists its own in `_KNNParams._item_columns`. From there on, a column is identified by
    its name: in packing, bundles, shards and saved models, and by the answers that need it.

    Attributes
    ----------
    name : str
        "id", "label", "weight"; not "position", "features", or the names of the vectors' inputs
        (`pyspark_knn.engine.rows.vectors.VALUES` and `LAYOUT`).
    param, column : str
        The Param that names the DataFrame's column, and the name of that column.
    rule : NumberRule, optional
        The numbers that the column may contain, as double. Default: ids of any atomic type.
    """

    name: str
    param: str
    column: str
    rule: NumberRule | None = None

    @property
    def saved_types(self) -> tuple[str, ...]:
        """The types that are allowed in a saved model; empty if any type of ids is allowed."""
        return () if self.rule is None else ("double",)

    def read(self, dataset: DataFrame) -> Input:
        """Return the column of `dataset` in the form in which it is sent to Python.

        Raises
        ------
        TypeError
            If the column has a type that is not supported.
        ValueError
            If there is no such column.
        """
        if self.rule is not None:
            return _numbers(dataset, self.rule)
        id_type = self.id_type(dataset)
        value = to_wire(columns.column(self.column), id_type)
        return Input(value, wire_type(id_type))

    def id_type(self, dataset: DataFrame) -> T.DataType:
        """Return the type of the ids in `dataset`; for the errors see `read`."""
        field = columns.field_of(dataset, self.param, self.column)
        return check_id_type(self.param, field)


@dataclass(frozen=True)
class ItemSource:
    """The columns to read from a DataFrame of items, and the rules for their values.

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
    rules : tuple of NumberRule
        The numbers that the columns of numbers may contain.
    """

    features: Features
    features_col: str
    columns: dict[str, Input]
    id_type: T.DataType | None = None
    id_col: str | None = None
    handle_invalid: str = "error"
    dtype: str = "auto"
    rules: tuple[NumberRule, ...] = ()

    @property
    def sort_by(self) -> tuple[str, ...]:
        """The columns that the items are sorted by; empty to keep the order of the DataFrame.

        Among equal ids the smaller label comes first, so that ties have one answer.
        """
        if self.id_type is not None:
            return tuple(self.columns)
        return (POSITION,) if POSITION in self.columns else ()

    @property
    def types(self) -> dict[str, T.DataType]:
        """The types of the columns of items in a shard, except the vector; "id" comes first."""
        given = {name: each.type for name, each in self.columns.items() if name != POSITION}
        return {"id": T.LongType(), **given}


def item_source(
    dataset: DataFrame,
    features_col: str,
    declared: Sequence[ItemColumn],
    handle_invalid: str,
    dtype: str,
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
    handle_invalid, dtype : str
        See `ItemSource`.

    Raises
    ------
    TypeError
        If a column has a type that is not supported.
    ValueError
        If a column does not exist.
    """
    ids = [each for each in declared if each.name == "id"]
    return ItemSource(
        features=features_of(dataset, "featuresCol", features_col),
        features_col=features_col,
        columns={each.name: each.read(dataset) for each in declared},
        id_type=ids[0].id_type(dataset) if ids else None,
        id_col=ids[0].column if ids else None,
        handle_invalid=handle_invalid,
        dtype=dtype,
        rules=tuple(each.rule for each in declared if each.rule is not None),
    )


def saved_source(frame: DataFrame, declared: Iterable[ItemColumn]) -> ItemSource:
    """Return the columns to read from a DataFrame that `Placement.items_frame` returned.

    Parameters
    ----------
    frame : DataFrame
        Has the columns `features`, those of `declared` by their names, and "position" if there
        are no ids.
    declared : iterable of ItemColumn
        The columns that every item has in addition to its vector.
    """
    named = [_saved(each) for each in declared]
    source = item_source(frame, "features", named, "error", "auto")
    if POSITION in frame.columns:
        source.columns[POSITION] = Input(F.col(POSITION), T.LongType())
    return source


def _saved(each: ItemColumn) -> ItemColumn:
    """Return the column as a saved model has it, where its name is that of the item column."""
    rule = each.rule
    if rule is not None:
        rule = replace(rule, param="items column", column=each.name)
    return replace(each, param="items column", column=each.name, rule=rule)


def _numbers(dataset: DataFrame, rule: NumberRule) -> Input:
    field = columns.field_of(dataset, rule.param, rule.column)
    if not isinstance(field.dataType, T.NumericType):
        raise TypeError(
            f"{rule.param} {rule.column!r} must be numeric but was actually "
            f"{field.dataType.simpleString()}; "
            + hints.number(field.name, field.dataType, classes=not rule.fractional)
        )
    return Input(columns.column(field.name).cast("double"), T.DoubleType())
