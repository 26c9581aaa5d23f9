"""Reading and checking the metadata and the items of a saved stage.

A saved stage may be damaged or come from an untrusted source. Anything wrong with it raises a
ValueError on the driver that names the problem.
"""

from __future__ import annotations

import json
import re
from os import PathLike
from typing import Any

from pyspark.ml.param import Params
from pyspark.sql import SparkSession
from pyspark.sql import types as T

from pyspark_knn.engine.rows.ids import check_id_type
from pyspark_knn.engine.spark import hints
from pyspark_knn.engine.spark.folders import literal

FORMAT_VERSION = 1
"""Version of the saved format, raised when older releases cannot read what this one writes."""

MAX_VALUES = {
    "k": 2**31 - 1,
    "leafSize": 2**31 - 1,
    "numProbes": 100_000,
    "numReplicas": 10_000,
    "numShards": 100_000,
}
"""Largest values of Params in a saved stage: beyond any sensible use, but safe for the driver."""

MAX_INDEX_PARAMS = {"M": 1024, "efConstruction": 100_000, "nTrees": 10_000, "nlist": 2**31 - 1}
"""Largest values in the Param indexParams of a saved stage."""

MAX_UID_LENGTH = 128
"""Largest number of characters of a uid."""


# --- metadata -------------------------------------------------------------------------------------


def read_metadata(session: SparkSession, path: str) -> str | None:
    """Return the metadata of the stage saved at `path` as text, or None if there is none."""
    try:
        rows = session.read.text(literal(f"{path}/metadata")).take(2)
    except Exception as error:
        if "PATH_NOT_FOUND" in str(error) or "does not exist" in str(error):
            return None
        raise
    return "\n".join(row[0] for row in rows)


def parse_metadata(text: str) -> dict[str, Any]:
    """Parse the metadata of a saved stage and check the fields that every stage has.

    Parameters
    ----------
    text : str
        The metadata as JSON.

    Returns
    -------
    dict
        The fields.

    Raises
    ------
    ValueError
        If the text is not a JSON object, or if a field is missing or has a wrong type.
    """
    try:
        metadata = json.loads(text)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    if not isinstance(metadata, dict):
        raise ValueError("the text is not a JSON object")
    for name, kind, word in (
        ("class", str, "a string"),
        ("uid", str, "a string"),
        ("sparkVersion", str, "a string"),
        ("paramMap", dict, "an object"),
        ("defaultParamMap", dict, "an object"),
    ):
        if not isinstance(_field(metadata, name), kind):
            raise ValueError(f"{name} must be {word}, got {shown(metadata[name])}")
    if not re.match(r"\d+\.\d+", metadata["sparkVersion"]):
        raise ValueError(
            f"sparkVersion must be a version number, got {shown(metadata['sparkVersion'])}"
        )
    check_uid(metadata["uid"])
    integer_field(metadata, "formatVersion", 1)
    return metadata


def check_uid(uid: str) -> None:
    """Raise a ValueError if a uid is not a plain name: pipelines use it as the name of a folder."""
    if not re.fullmatch(rf"[\w.-]{{1,{MAX_UID_LENGTH}}}", uid) or ".." in uid or uid == ".":
        raise ValueError(
            f"uid must have at most {MAX_UID_LENGTH} characters, which are letters, digits, '_', "
            f"'-' or single '.', got {shown(uid)}"
        )


def check_path(path: object) -> None:
    """Raise an error unless the path of a saved stage is a string that is not empty."""
    if not isinstance(path, str):
        hint = ". Use str(path)." if isinstance(path, PathLike) else ""
        raise TypeError(f"path must be a str, got {hints.described(path)}{hint}")
    if not path:
        raise ValueError("path must not be empty")


def integer_field(fields: dict[str, Any], name: str, least: int) -> int:
    """Return the field `name`; raise a ValueError unless it is an integer >= `least`."""
    value = _field(fields, name)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer >= {least}, got {shown(value)}")
    return value


def fit_record(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of the fit summary; raise a ValueError unless they are a JSON object."""
    found = _field(metadata, "fit")
    if not isinstance(found, dict):
        raise ValueError(f"fit must be an object, got {shown(found)}")
    return found


def _field(fields: dict[str, Any], name: str) -> Any:
    if name not in fields:
        raise ValueError(f"{name} is missing")
    return fields[name]


def shown(value: Any) -> str:
    """Format an untrusted value for a message, with at most 80 characters."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply, or too many digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


# --- Params ---------------------------------------------------------------------------------------


def set_params(stage: Params, metadata: dict[str, Any]) -> None:
    """Set the saved Params and their saved defaults.

    Parameters
    ----------
    stage : Params
        The stage to set them on.
    metadata : dict
        The metadata of the saved stage.

    Raises
    ------
    ValueError
        If the stage has no such Param, or the Param does not allow the value.
    """
    known = {param.name: param for param in stage.params}
    for field, setter in (("paramMap", stage._set), ("defaultParamMap", stage._setDefault)):
        for name, value in metadata[field].items():
            if name not in known:
                raise ValueError(f"{type(stage).__name__} has no Param {shown(name)}")
            try:
                setter(**{name: known[name].typeConverter(value)})
            except (TypeError, ValueError, OverflowError, RecursionError) as error:
                message = str(error)
                if len(message) >= 200:
                    message = f"value {shown(value)} is not allowed"
                raise ValueError(f"{field}, {name}: {message}") from error
    check_limits(stage)


def check_limits(stage: Params) -> None:
    """Raise a ValueError if a Param is larger than the limits of a saved stage allow."""
    for name, most in MAX_VALUES.items():
        value = stage.getOrDefault(name) if stage.hasParam(name) else None
        if value is not None and value > most:
            raise ValueError(f"{name} must be at most {most} to be saved, got {shown(value)}")
    given = stage.getOrDefault("indexParams") if stage.hasParam("indexParams") else None
    for name, value in (given or {}).items():
        most = MAX_INDEX_PARAMS.get(name, 0)
        if isinstance(value, (int, float)) and not value <= most:
            raise ValueError(
                f"indexParams[{shown(name)}] must be at most {most} to be saved, got {shown(value)}"
            )


# --- items ----------------------------------------------------------------------------------------


def check_columns(schema: T.StructType, wanted: dict[str, tuple[str, ...]]) -> None:
    """Check that saved items have the expected columns.

    Parameters
    ----------
    schema : StructType
        The columns of the saved items. Additional ones are ignored.
    wanted : dict of str to tuple of str
        The names of the expected columns and the types that each may have, as in SQL. An empty
        tuple allows all types of ids.

    Raises
    ------
    TypeError, ValueError
        If a column is missing or has a wrong type, or if the items have ids but idCol is unset.
    """
    found = {field.name: field for field in schema.fields}
    if "position" in found:
        wanted = {**wanted, "position": ("bigint",)}
    for name, types in wanted.items():
        if name not in found:
            raise ValueError(f"items column {name!r} is missing. Columns: {shown(schema.names)}")
        actual = found[name].dataType.simpleString()
        if not types:
            check_id_type("items column", found[name])
        elif actual not in types:
            raise ValueError(f"items column {name!r} must be {' or '.join(types)}, got {actual}")
    if "id" in found and "id" not in wanted:
        raise ValueError("items column 'id' exists, but idCol is unset")


def check_positions(found: tuple[int, int, int], count: int) -> None:
    """Raise a ValueError unless the positions, which identify the items, are 0 to `count` - 1.

    Parameters
    ----------
    found : tuple of int
        The smallest position, the largest one, and the number of different ones.
    count : int
        The number of items.
    """
    if found != (0, count - 1, count):
        raise ValueError(f"items column 'position' must contain each of 0 to {count - 1} once")


def check_complete(num_items: int, num_features: int, metadata: dict[str, Any]) -> None:
    """Raise a ValueError if items are missing, which Parquet does not detect.

    Parameters
    ----------
    num_items, num_features : int
        Number of items that were read, and the dimension of their vectors.
    metadata : dict
        The metadata of the saved model.
    """
    saved = metadata["numItems"], metadata["numFeatures"]
    found = num_items, num_features
    if found != saved:
        raise ValueError(
            f"expected {shown(saved[0])} items of dimension {shown(saved[1])}, got {found[0]} "
            f"items of dimension {found[1]}"
        )
