"""The Params of outlier scores."""

from __future__ import annotations

import functools
from typing import Any, Literal, TypeVar

from pyspark.ml.param import Param, Params

from pyspark_knn.index.lof import LOF, SCORES
from pyspark_knn.index.registry import exact_choices
from pyspark_knn.literals import ScoreName
from pyspark_knn.params.converters import choice, real, text, whole
from pyspark_knn.params.neighbors import _NeighborParams

AUTO: Literal["auto"] = "auto"
"""The value of contamination that stands for the threshold 1.5 of the factor."""

Self_ = TypeVar("Self_", bound="_OutlierParams")


def _is_share(value: float) -> bool:
    return 0.0 < value <= 0.5


def _contamination(name: str, value: Any) -> float | Literal["auto"]:
    if isinstance(value, str) and value == AUTO:
        return AUTO
    share: float = real(name, f"{AUTO!r} or a number in (0, 0.5]", _is_share)(value)
    return share


class _OutlierParams(_NeighborParams):
    """Params of outlier scores."""

    k: Param[int | None] = Param(
        Params._dummy(),
        "k",
        "number of neighbors (items) that each row is compared with, >= 1",
        whole("k", 1),
    )
    # Densities are compared with each other, so an item that is missed would look like an outlier.
    algorithm: Param[str] = Param(
        Params._dummy(),
        "algorithm",
        f"search algorithm: {', '.join(exact_choices())}; on a model, the chosen algorithm",
        choice("algorithm", exact_choices),
    )
    score: Param[ScoreName] = Param(
        Params._dummy(),
        "score",
        "what scoreCol contains: lof (the local outlier factor), kth (the distance of the k-th "
        "neighbor) or mean (the mean distance of the k neighbors)",
        choice("score", SCORES),
    )
    contamination: Param[float | Literal["auto"]] = Param(
        Params._dummy(),
        "contamination",
        "share of outliers among the items, in (0, 0.5], which determines the threshold of "
        "predictionCol, or auto (a factor above 1.5, for score lof only)",
        functools.partial(_contamination, "contamination"),
    )
    scoreCol: Param[str] = Param(
        Params._dummy(),
        "scoreCol",
        "output column of double: the outlier score, larger for stronger outliers (the factor is "
        "about 1 inside a cluster); omitted if the name is empty",
        text("scoreCol"),
    )
    predictionCol: Param[str] = Param(
        Params._dummy(),
        "predictionCol",
        "output column of double: 1.0 for an outlier, 0.0 for other rows; omitted if the name is "
        "empty",
        text("predictionCol"),
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(
            k=20,
            score=LOF,
            contamination=AUTO,
            scoreCol="outlierScore",
            predictionCol="prediction",
        )

    def getK(self) -> int:
        """Value of k."""
        k: int = self.getOrDefault("k")
        return k

    def getScore(self) -> ScoreName:
        """Value of score."""
        return self.getOrDefault(self.score)

    def getContamination(self) -> float | Literal["auto"]:
        """Value of contamination."""
        return self.getOrDefault(self.contamination)

    def getScoreCol(self) -> str:
        """Value of scoreCol."""
        return self.getOrDefault(self.scoreCol)

    def getPredictionCol(self) -> str:
        """Value of predictionCol."""
        return self.getOrDefault(self.predictionCol)

    def setScoreCol(self: Self_, value: str) -> Self_:
        """Set scoreCol; an empty name omits the column."""
        return self._set(scoreCol=value)

    def setPredictionCol(self: Self_, value: str) -> Self_:
        """Set predictionCol; an empty name omits the column."""
        return self._set(predictionCol=value)


def check_scores(params: _OutlierParams) -> None:
    """Raise a ValueError if score conflicts with contamination or with the metric.

    Parameters
    ----------
    params : _OutlierParams
        The stage.
    """
    score = params.getScore()
    if score == LOF and params.getMetric() == "inner_product":
        raise ValueError(
            "score 'lof' does not support metric 'inner_product', whose distances can be negative. "
            "Use metric='cosine', or score='kth' or 'mean'."
        )
    if score != LOF and params.getContamination() == AUTO and params.getPredictionCol():
        raise ValueError(
            f"contamination 'auto' is a threshold for score 'lof', but score is {score!r}. Set "
            "contamination to the share of outliers, in (0, 0.5], or set predictionCol='' to omit "
            "the prediction."
        )
