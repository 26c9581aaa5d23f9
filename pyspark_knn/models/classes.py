"""The classes of labels: how many there are, and their names, as their metadata declare them."""

from __future__ import annotations

from pyspark.sql import DataFrame

from pyspark_knn.engine.rows import columns

MOST_CLASSES = 10_000
"""Largest number of classes without names. More must be declared in the metadata of the label,
since labels that are user ids, for example, are a mistake."""


def check_thresholds(thresholds: list[float] | None, classes: int) -> None:
    """Raise an error unless each class has a threshold, if there are any."""
    if thresholds is not None and len(thresholds) != classes:
        raise ValueError(
            f"thresholds must have one value for each of the {classes} classes, got "
            f"{len(thresholds)} values"
        )


def declared_classes(dataset: DataFrame, name: str) -> tuple[int | None, list[str] | None]:
    """Return the number of classes and their names in the metadata of the label column."""
    attribute = columns.field_of(dataset, "labelCol", name).metadata.get("ml_attr", {})
    values = attribute.get("vals")
    if values is None:
        return attribute.get("num_vals"), None
    return len(values), [str(value) for value in values]


def check_declared(name: str, largest: int, declared: int | None, who: str) -> None:
    """Raise an error for a label that is not among the declared classes."""
    if declared is not None and largest >= declared:
        raise ValueError(
            f"labelCol {name!r} contains label {largest}, but {who} {declared} classes"
        )


def check_undeclared(name: str, largest: int, declared: int | None) -> None:
    """Raise an error for too many classes that are not declared."""
    if declared is None and largest >= MOST_CLASSES:
        raise ValueError(
            f"labelCol {name!r} contains label {largest}, so there are {largest + 1} classes. "
            f"More than {MOST_CLASSES} classes must be declared in the column's metadata: use "
            "pyspark.ml.feature.StringIndexer."
        )


def check_classes(classes: int | None, names: list[str] | None, most: int) -> int:
    """Check the classes that a saved model declares.

    Parameters
    ----------
    classes : int or None
        Number of classes.
    names : list of str or None
        Names of the classes.
    most : int
        Largest number of classes without names.

    Returns
    -------
    int
        Number of classes, at least 2.

    Raises
    ------
    ValueError
        If there are fewer than 2 classes or more than `most` without names, or if the number of
        names differs from the number of classes.
    """
    if classes is None or classes < 2:
        raise ValueError(f"numClasses must be an integer >= 2, got {classes}")
    if names is not None and len(names) != classes:
        raise ValueError(
            f"classNames must have one name for each of the {classes} classes, got {len(names)}"
        )
    if names is None and classes > most:
        raise ValueError(
            f"numClasses must be at most {most} for classes without names, got {classes}"
        )
    return classes
