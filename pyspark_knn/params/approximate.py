"""The Params of approximate indexes."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, TypeVar

from pyspark.ml.param import Param, Params

from pyspark_knn.params.checked import CheckedParams
from pyspark_knn.params.converters import json_dict, optional, real, whole

DEFAULT_TARGET = 0.95
"""The targetRecall of an approximate algorithm if neither it nor searchParams is set."""

_LARGEST_SEED = 2**63 - 1

Self_ = TypeVar("Self_", bound="ApproximateParams")


def _is_recall(value: float) -> bool:
    return 0.0 < value <= 1.0


def _seed(name: str, value: Any) -> int:
    seed: int = whole(name, -_LARGEST_SEED - 1)(value)
    if seed > _LARGEST_SEED:
        raise ValueError(f"{name} must be an integer of 64 bits, got {value!r}")
    return seed


class ApproximateParams(CheckedParams):
    """Params of a search that may be approximate."""

    targetRecall: Param[float | None] = Param(
        Params._dummy(),
        "targetRecall",
        "smallest mean recall of an approximate search, in (0, 1]: the share of the true neighbors "
        "that it finds; by default the search is exact, or 0.95 if algorithm is approximate",
        optional(real("targetRecall", "a number in (0, 1]", _is_recall)),
    )
    indexParams: Param[dict[str, Any] | None] = Param(
        Params._dummy(),
        "indexParams",
        "parameters of the structure of an approximate index: nlist and encoding (flat or sq8) of "
        "ivf, M and efConstruction of hnsw, nTrees of annoy; by default chosen from the number of "
        "items",
        optional(json_dict("indexParams")),
    )
    searchParams: Param[dict[str, Any] | None] = Param(
        Params._dummy(),
        "searchParams",
        "parameter of the search of an approximate index: nprobe of ivf, efSearch of hnsw, searchK "
        "of annoy; by default chosen to reach targetRecall",
        optional(json_dict("searchParams")),
    )
    seed: Param[int] = Param(
        Params._dummy(),
        "seed",
        "random seed of an approximate index: the same items and seed give the same index",
        functools.partial(_seed, "seed"),
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(targetRecall=None, indexParams=None, searchParams=None, seed=0)

    def getTargetRecall(self) -> float | None:
        """Value of targetRecall, None if it is unset."""
        return self.getOrDefault(self.targetRecall)

    def getIndexParams(self) -> dict[str, Any] | None:
        """Value of indexParams, None if it is unset."""
        return self.getOrDefault(self.indexParams)

    def getSearchParams(self) -> dict[str, Any] | None:
        """Value of searchParams, None if it is unset."""
        return self.getOrDefault(self.searchParams)

    def getSeed(self) -> int:
        """Value of seed."""
        return self.getOrDefault(self.seed)

    def setTargetRecall(self: Self_, value: float | None) -> Self_:
        """Set targetRecall; None unsets it."""
        return self._set(targetRecall=value)

    def setSearchParams(self: Self_, value: Mapping[str, Any] | None) -> Self_:
        """Set searchParams; None unsets it."""
        return self._set(searchParams=value)


class ApproximateSetters(ApproximateParams):
    """Setters of the Params of an approximate index that `fit` reads, for estimators only."""

    def setIndexParams(self: Self_, value: Mapping[str, Any] | None) -> Self_:
        """Set indexParams; None unsets it."""
        return self._set(indexParams=value)

    def setSeed(self: Self_, value: int) -> Self_:
        """Set seed."""
        return self._set(seed=value)
