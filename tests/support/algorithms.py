"""The index classes that can be built here: annoy, which has no wheels, is not always installed."""

from __future__ import annotations

from pyspark_knn.index.approximate.base import ApproximateIndex
from pyspark_knn.index.approximate.libraries import is_installed
from pyspark_knn.index.base import NeighborIndex
from pyspark_knn.index.distances import Metric
from pyspark_knn.index.registry import classes_for


def can_be_built(kind: type[NeighborIndex]) -> bool:
    """Whether the library of a class is installed; exact classes need none."""
    return not issubclass(kind, ApproximateIndex) or is_installed(kind.library)


def installed_classes(metric: Metric, storage: str = "dense") -> dict[str, type[NeighborIndex]]:
    """See `classes_for`; without classes that cannot be built here."""
    found = classes_for(metric, storage=storage)
    return {name: kind for name, kind in found.items() if can_be_built(kind)}
