"""What is known of a fit, and saved with its model."""

from __future__ import annotations

import types
from dataclasses import dataclass, fields
from typing import Any, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class FitSummary:
    """What a fit found out; saved with the model.

    Attributes
    ----------
    numSkipped : int
        Items that were left out as invalid.
    numDuplicates : int
        Items that have the id of another one.
    algorithmReason, placementReason : str
        Why the index is what and where it is.
    featureNames : list of str or None
        The features' names in the order of the vector, by the ML attributes of the items or by
        scikit-learn: queries that have names must have these.
    numClasses : int or None
        Of a classifier.
    classNames : list of str or None
        Of a classifier, where the label's metadata or scikit-learn told them.
    """

    numSkipped: int = 0
    numDuplicates: int = 0
    algorithmReason: str = ""
    placementReason: str = ""
    featureNames: list[str] | None = None
    numClasses: int | None = None
    classNames: list[str] | None = None


def read_summary(record: dict[str, Any]) -> FitSummary:
    """The facts out of a saved record; what a later release may have added is left out.

    Raises
    ------
    ValueError
        If a fact is of another type than it must be.
    """
    hints = get_type_hints(FitSummary)
    known = {field.name: record[field.name] for field in fields(FitSummary) if field.name in record}
    for name, value in known.items():
        if not _suits(value, hints[name]):
            kind = getattr(hints[name], "__name__", hints[name])
            raise ValueError(f"{name} must be of type {kind}, got {str(value)[:80]!r}")
    return FitSummary(**known)


def check_classes(classes: int | None, names: list[str] | None, most: int) -> int:
    """Refuse classes that a saved model may not claim: more than `most` need a name each."""
    if classes is None or classes < 2:
        raise ValueError(f"numClasses must be an integer >= 2, got {classes}")
    if names is not None and len(names) != classes:
        raise ValueError(f"{len(names)} classNames for {classes} classes")
    if names is None and classes > most:
        raise ValueError(
            f"numClasses must be at most {most} where the classes have no names, got {classes}"
        )
    return classes


def _suits(value: Any, hint: Any) -> bool:
    """Whether a value out of JSON is of a type; counts are not negative."""
    if isinstance(hint, types.UnionType):
        return any(_suits(value, each) for each in get_args(hint))
    if get_origin(hint) is list:
        return isinstance(value, list) and all(_suits(each, get_args(hint)[0]) for each in value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return isinstance(value, get_origin(hint) or hint)
