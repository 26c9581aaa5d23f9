"""What a saved stage says of itself: read, and checked before anything is made of it.

A saved stage may be damaged, or come from a stranger. Whatever is wrong with it raises one
ValueError, on the driver, that says what.
"""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar

from pyspark.ml.param import Params
from pyspark.sql import DataFrame, SparkSession

from pyspark_knn.engine import columns
from pyspark_knn.engine.folders import literal

FORMAT_VERSION = 1
"""Goes up when an older release could not read what this one writes."""

MAX_VALUES = {
    "k": 2**31 - 1,
    "leafSize": 2**31 - 1,
    "numProbes": 100_000,
    "numReplicas": 10_000,
    "numShards": 100_000,
}
"""What a saved stage may ask for: far more than makes sense, and less than stalls a driver."""

MAX_UID_LENGTH = 128

P = TypeVar("P", bound=Params)


# --- metadata -------------------------------------------------------------------------------------


def read_metadata(session: SparkSession, path: str) -> str | None:
    """The metadata of a saved stage, as text; None where there is none."""
    try:
        rows = session.read.text(literal(f"{path}/metadata")).take(2)
    except Exception as error:
        if "PATH_NOT_FOUND" in str(error) or "does not exist" in str(error):
            return None
        raise
    return "\n".join(row[0] for row in rows)


def parse_metadata(text: str) -> dict[str, Any]:
    """The fields that every stage has, checked.

    Raises
    ------
    ValueError
        If there is no JSON, or a field is missing or of another type.
    """
    try:
        metadata = json.loads(text)
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None
    if not isinstance(metadata, dict):
        raise ValueError("it holds no JSON object")
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
        raise ValueError(f"sparkVersion must be a version, got {shown(metadata['sparkVersion'])}")
    check_uid(metadata["uid"])
    integer_field(metadata, "formatVersion", 1)
    return metadata


def check_uid(uid: str) -> None:
    """Refuse a uid that is no plain name: a pipeline makes a folder's name of it."""
    if not re.fullmatch(rf"[\w.-]{{1,{MAX_UID_LENGTH}}}", uid) or ".." in uid or uid == ".":
        raise ValueError(
            "uid must consist of letters, digits, '_', '-' and single '.', at most "
            f"{MAX_UID_LENGTH} of them, got {shown(uid)}"
        )


def integer_field(fields: dict[str, Any], name: str, least: int) -> int:
    """The field `name`, which must be an integer."""
    value = _field(fields, name)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer >= {least}, got {shown(value)}")
    return value


def fit_record(metadata: dict[str, Any]) -> dict[str, Any]:
    """What a model is to know of its fit."""
    found = _field(metadata, "fit")
    if not isinstance(found, dict):
        raise ValueError(f"fit must be an object, got {shown(found)}")
    return found


def _field(fields: dict[str, Any], name: str) -> Any:
    if name not in fields:
        raise ValueError(f"{name} is missing")
    return fields[name]


def shown(value: Any) -> str:
    """What was found, for a message, which a stranger cannot make long."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply, or too many digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


# --- Params ---------------------------------------------------------------------------------------


def set_params(stage: Params, metadata: dict[str, Any]) -> None:
    """Set the Params and their defaults as saved.

    Raises
    ------
    ValueError
        If there is no such Param, or it does not allow the value.
    """
    known = {param.name: param for param in stage.params}
    for field, setter in (("paramMap", stage._set), ("defaultParamMap", stage._setDefault)):
        for name, value in metadata[field].items():
            if name not in known:
                raise ValueError(f"{type(stage).__name__} has no Param {shown(name)}")
            try:
                setter(**{name: known[name].typeConverter(value)})
            except (TypeError, ValueError, OverflowError, RecursionError) as error:
                told = str(error) if len(str(error)) < 200 else f"it cannot be {shown(value)}"
                raise ValueError(f"{field}, {name}: {told}") from error
    check_limits(stage)


def check_limits(stage: Params) -> None:
    """Refuse what no saved stage may ask for; see `MAX_VALUES`."""
    for name, most in MAX_VALUES.items():
        value = stage.getOrDefault(name)
        if value is not None and value > most:
            raise ValueError(f"{name} must be at most {most} to be saved, got {shown(value)}")


# --- items ----------------------------------------------------------------------------------------


def check_columns(frame: DataFrame, wanted: dict[str, tuple[str, ...]]) -> None:
    """Check that items have the columns `wanted`, each with the types that it may have.

    No type stands for all that ids may have. Other columns mean no harm.
    """
    found = {field.name: field for field in frame.schema.fields}
    if "position" in found:
        wanted = {**wanted, "position": ("bigint",)}
    for name, types in wanted.items():
        if name not in found:
            raise ValueError(f"its items have no column {name!r}, only {shown(frame.columns)}")
        actual = found[name].dataType.simpleString()
        if not types:
            columns.check_id_type("items column", found[name])
        elif actual not in types:
            raise ValueError(f"items column {name!r} must be {' or '.join(types)}, but is {actual}")
    if "id" in found and "id" not in wanted:
        raise ValueError("its items have ids, but idCol is unset")


def check_complete(num_items: int, num_features: int, metadata: dict[str, Any]) -> None:
    """Refuse items of which a file is missing: Parquet itself would not notice."""
    saved = metadata["numItems"], metadata["numFeatures"]
    found = num_items, num_features
    if found != saved:
        raise ValueError(
            f"{shown(saved[0])} items of {shown(saved[1])} dimensions were saved, but there are "
            f"{found[0]} of {found[1]}"
        )
