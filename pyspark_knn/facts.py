"""What is known of a fit, and saved with its model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FitFacts:
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
