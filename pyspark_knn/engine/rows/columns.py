"""Columns of a DataFrame: their names, and checks of the schema."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

from pyspark.errors import IllegalArgumentException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn.engine.spark import compat, hints


class MissingColumnError(IllegalArgumentException, ValueError):
    """A column does not exist.

    MLlib's stages raise an IllegalArgumentException. Tools such as the autologging of MLflow find
    the inputs of a stage by it.
    """


class Input(NamedTuple):
    """A column in the form in which it is sent to Python.

    Attributes
    ----------
    value : Column
        Its values.
    type : DataType
        Their type.
    """

    value: Column
    type: T.DataType


def quoted(name: str) -> str:
    """Quote the name of a column, so that Spark does not interpret dots in it."""
    return "`" + name.replace("`", "``") + "`"


def column(name: str) -> Column:
    """Return the column with this name."""
    return F.col(quoted(name))


def replace_columns(frame: DataFrame, values: dict[str, Column]) -> DataFrame:
    """Add or replace the columns of `frame` that `values` names, in one step.

    Spark would analyze the whole plan again for each further step, which takes longer than a small
    search. The values must have these names as aliases.
    """
    if not values:
        return frame
    if not compat.drops_metadata(frame.sparkSession):
        return frame.withColumns(values)
    fold = (lambda s: s) if case_sensitive(frame) else str.lower
    known = {fold(name) for name in frame.columns}
    added = [value for name, value in values.items() if fold(name) not in known]
    if added:
        frame = frame.select("*", *added)
    replaced = {fold(name): value for name, value in values.items() if fold(name) in known}
    if not replaced:
        return frame
    # Columns with duplicate names cannot be selected by name, so they get unique names temporarily.
    names = frame.columns
    counts = Counter(map(fold, names))
    unique = [name if counts[fold(name)] == 1 else f"own_{i}" for i, name in enumerate(names)]
    plain = frame if unique == names else frame.toDF(*unique)
    found = plain.select(*(replaced.get(fold(name), column(name)) for name in unique))
    return found if unique == names else found.toDF(*names)


def with_attributes(name: str, value: Column, attributes: dict[str, Any]) -> Column:
    """Name a column, and add ML attributes to its metadata unless they are empty."""
    return value.alias(name, metadata={"ml_attr": attributes} if attributes else {})


def struct_type(types: dict[str, T.DataType]) -> T.StructType:
    """Return the type of a struct or a DataFrame with these columns."""
    return T.StructType([T.StructField(name, kind) for name, kind in types.items()])


def case_sensitive(dataset: DataFrame) -> bool:
    """Whether column names are case-sensitive in the session of `dataset`."""
    return compat.flag(dataset.sparkSession, "spark.sql.caseSensitive", default=False)


def field_of(dataset: DataFrame, param: str, name: str) -> T.StructField:
    """Return the field of the column `name`, which is the value of the Param `param`.

    Raises
    ------
    MissingColumnError
        If there is no such column.
    ValueError
        If there is more than one.
    """
    fold = (lambda s: s) if case_sensitive(dataset) else str.lower
    found = [field for field in dataset.schema.fields if fold(field.name) == fold(name)]
    known = f"Input columns: {dataset.columns}"
    if not found:
        hint = hints.missing(param, name, dataset.schema.fields)
        raise MissingColumnError(f"{param} {name!r} does not exist. {known}{hint}")
    if len(found) > 1:
        raise ValueError(f"{param} {name!r} is ambiguous. {known}")
    return found[0]


def refuse_existing(dataset: DataFrame, outputs: dict[str, str]) -> None:
    """Check the names of output columns against each other and against `dataset`.

    Parameters
    ----------
    dataset : DataFrame
        The data to which they will be added.
    outputs : dict of str to str
        Name of a Param or argument -> name of the output column.

    Raises
    ------
    ValueError
        If a name exists already.
    """
    fold = (lambda s: s) if case_sensitive(dataset) else str.lower
    taken = {fold(name) for name in dataset.columns}
    for param, name in outputs.items():
        if fold(name) in taken:
            raise ValueError(
                f"{param} {name!r} already exists. Input columns: {dataset.columns}. Output "
                f"columns: {list(outputs.values())}"
            )
        taken.add(fold(name))
