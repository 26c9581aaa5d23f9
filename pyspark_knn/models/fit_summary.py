"""The summary of a fit, which is saved with the model."""

from __future__ import annotations

import types
from dataclasses import dataclass, fields
from typing import Any, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class FitSummary:
    """The summary of a fit and of its items.

    The names of the fields are part of the saved format.

    Attributes
    ----------
    numSkipped : int
        Number of invalid items that were skipped.
    numDuplicates : int
        Number of items that have the same id as another item.
    algorithmReason, placementReason, storageReason : str
        Why this algorithm, this placement and this storage were chosen.
    featureNames : list of str or None
        Names of the features in the order of the vector, from the ML attributes of the items or
        from scikit-learn. Queries with feature names must have the same ones.
    numClasses : int or None
        Number of classes of a classifier.
    classNames : list of str or None
        Names of a classifier's classes, from the label's ML attributes or from scikit-learn.
    mostFrequentClass : int or None
        The class of most items, of a sharded classifier with outlierLabel "most_frequent".
    classesDeclared : bool
        Whether the label's ML attributes declared the number of classes. If not, the largest label
        determines it.
    threshold : float or None
        The largest score that is normal, of an outlier model.
    featureCounts : list of int or None
        Of an imputer: the number of items that have each feature.
    recall : dict or None
        The measured recall of an approximate index, see `Measurement.record`.
    featureMeans, featureVariances : list of float or None
        Of an imputer: the mean and the variance of each feature; 0 for a feature that no item has.
    """

    numSkipped: int = 0
    numDuplicates: int = 0
    algorithmReason: str = ""
    placementReason: str = ""
    storageReason: str = ""
    featureNames: list[str] | None = None
    numClasses: int | None = None
    classNames: list[str] | None = None
    mostFrequentClass: int | None = None
    classesDeclared: bool = False
    threshold: float | None = None
    recall: dict[str, Any] | None = None
    featureCounts: list[int] | None = None
    featureMeans: list[float] | None = None
    featureVariances: list[float] | None = None


def read_summary(record: dict[str, Any]) -> FitSummary:
    """Read the summary from a saved model's metadata.

    Parameters
    ----------
    record : dict
        The names of fields and their values, as parsed from JSON. Unknown fields, which a later
        release may have added, are ignored.

    Returns
    -------
    FitSummary
        The summary, with defaults for missing fields.

    Raises
    ------
    ValueError
        If a field has a wrong type.
    """
    hints = get_type_hints(FitSummary)
    known = {field.name: record[field.name] for field in fields(FitSummary) if field.name in record}
    for name, value in known.items():
        if not _suits(value, hints[name]):
            kind = getattr(hints[name], "__name__", hints[name])
            raise ValueError(f"{name} must be of type {kind}, got {str(value)[:80]!r}")
    return FitSummary(**known)


def _suits(value: Any, hint: Any) -> bool:
    """Whether a JSON value has the type `hint`; an int must not be negative."""
    if isinstance(hint, types.UnionType):
        return any(_suits(value, each) for each in get_args(hint))
    if get_origin(hint) is list:
        return isinstance(value, list) and all(_suits(each, get_args(hint)[0]) for each in value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return isinstance(value, get_origin(hint) or hint)
