"""The models whose search may be approximate: how thorough it is, and its measured recall."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Hashable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn.engine.measuring import Calibration, most_queries
from pyspark_knn.engine.rows.columns import Input
from pyspark_knn.engine.search.answers import FoundLists
from pyspark_knn.engine.search.self_search import QUERY
from pyspark_knn.engine.shared_search import Limits
from pyspark_knn.engine.spark import compat
from pyspark_knn.engine.spark.caching import persist, unpersist
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.registry import approximate_classes, class_for
from pyspark_knn.models.measured_recall import MeasuredRecall, Measurement
from pyspark_knn.models.neighbors import NeighborModel
from pyspark_knn.params.approximate import DEFAULT_TARGET, ApproximateParams
from pyspark_knn.params.approximate_checks import check_approximation, given_knob
from pyspark_knn.params.checks import checked_metric

if TYPE_CHECKING:
    from pyspark_knn.engine.fit.counted import CountedItems
    from pyspark_knn.engine.placement import Placement
    from pyspark_knn.index.approximate.base import ApproximateIndex
    from pyspark_knn.index.recall import Curve
    from pyspark_knn.models.fit_summary import FitSummary

logger = logging.getLogger(__name__)

_MEASURED_K = 10
"""The k of the measured recall if k is None."""

_SEEDS = 1 << 64
"""Seeds of an index are not negative: NumPy has no others."""

Self_ = TypeVar("Self_", bound="ApproximateModel")


class ApproximateModel(NeighborModel, ApproximateParams):
    """A model whose index may be approximate."""

    def _spec(self) -> IndexSpec:
        target = self.getTargetRecall()
        if self.getAlgorithm() in approximate_classes() and self.getSearchParams() is None:
            target = target or DEFAULT_TARGET
        if self.getKeyCols() or self.getK() is None:
            target = None  # only exact algorithms support keys; a search by a radius is exact
        return replace(
            super()._spec(),
            index_params=self.getIndexParams() or {},
            search_params=self.getSearchParams(),
            target_recall=target,
            seed=self.getSeed() % _SEEDS,
        )

    @property
    def _approximate_class(self) -> type[ApproximateIndex] | None:
        """The class of the index, None if it is exact."""
        return approximate_classes().get(self.getAlgorithm()) if self._fitted.levels else None

    def _hold(self, index: Placement, summary: FitSummary) -> None:
        if (why := self._target_is_unused()) and not summary.algorithmReason:
            summary = replace(summary, algorithmReason=f"{index.algorithm_reason}; {why}")
        super()._hold(index, summary)

    def _target_is_unused(self) -> str:
        """Return why "auto" did not consider targetRecall; "" if it did."""
        target = self.getTargetRecall()
        if target is None or self.getAlgorithm() != "auto":
            return ""
        if not self.getKeyCols() and self.getK() is not None:
            return ""
        param = "keyCols" if self.getKeyCols() else "k=None"
        return f"targetRecall {target:g} has no effect: a search with {param} is exact"

    # --- how thorough the search is ---

    @property
    def _target(self) -> float:
        return self.getTargetRecall() or DEFAULT_TARGET

    @property
    def _measurement(self) -> Measurement | None:
        record = self._summary.recall
        return None if record is None else Measurement.from_record(record)

    def _given_knob(self) -> int | None:
        """Return the value in searchParams; None if it is unset."""
        kind, given = self._approximate_class, self.getSearchParams()
        if kind is not None:
            return given_knob(given, kind)
        if given:
            raise ValueError(
                f"algorithm {self.getAlgorithm()!r} does not support searchParams {given!r}, "
                "because it is exact. Set searchParams to None."
            )
        return None

    def _knob(self) -> int | None:
        given, measured = self._given_knob(), self._measurement
        if given is not None or measured is None or self._approximate_class is None:
            return given
        return measured.curve.reaching(self._target).knob

    def _search_key(self) -> Hashable:
        # An approximate search for fewer neighbors, or a less thorough one, may find others.
        knob = self._knob()
        return None if knob is None or self.getK() is None else (knob, self._limits())

    @property
    def _by_cells(self) -> bool:
        """Whether each shard has the items of a cell, so that numProbes limits the search."""
        return self.getPlacement() == "sharded" and self.getShardBy() == "kmeans"

    # --- the measured recall ---

    def _wanted(self) -> Calibration:
        """Return what to measure for the Params."""
        return Calibration(
            k=max(1, min(self.getK() or _MEASURED_K, self.numItems - 1)),
            target=self._target,
            knob=self._given_knob(),
            seed=self.getSeed() % _SEEDS,
            probes=self.getNumProbes(),
        )

    def _forget_recall(self) -> None:
        self._summary = replace(self._summary, recall=None)

    def _measure_recall(self) -> None:
        if self._approximate_class is None:
            return
        wanted, known = self._wanted(), self._measurement
        if known is None or not known.answers(wanted, self._fitted.levels[-1]):
            self._remember(self._fitted.held_out_recall(wanted), wanted)

    def _remember(self, curve: Curve, wanted: Calibration) -> None:
        known = Measurement(curve, wanted.k, wanted.probes, wanted.knob is None)
        self._summary = replace(self._summary, recall=known.record())
        logger.info("recall %s", self.recall)

    def _check_summary(self, summary: FitSummary, packed: CountedItems) -> None:
        super()._check_summary(summary, packed)
        check_approximation(self)
        if summary.recall is not None:
            Measurement.from_record(summary.recall)

    def _warn_of_recall(self, stacklevel: int = 5) -> None:
        measured, found = self._measurement, self.recall
        if measured is None or found is None or self.getK() is None:
            return
        k = min(self.getK() or 1, self.numItems - 1)
        if k > measured.k and f"recall, k={k}" not in self._warned:
            self._warned.add(f"recall, k={k}")
            warnings.warn(
                f"k is {self.getK()}, but the recall was measured for k={measured.k}: {found}. It "
                "may be lower for more neighbors. Call calibrate(queries) to measure it again.",
                stacklevel=stacklevel,
            )
        missed = self._given_knob() is None and found.low < self._target and found.mean < 1.0
        if missed and f"recall, {self._target}" not in self._warned:
            self._warned.add(f"recall, {self._target}")
            if measured.covers(self._target, self._fitted.levels[-1]):
                problem, advice = self._out_of_reach()
            else:
                problem = "is higher than the recall of the searches that were measured"
                advice = "Call calibrate(queries) to measure more thorough ones, or fit again."
            warnings.warn(
                f"targetRecall {self._target:g} {problem}. The highest measured recall is {found}. "
                f"{advice}",
                stacklevel=stacklevel,
            )

    def _out_of_reach(self) -> tuple[str, str]:
        """Return what keeps all searches below the target, and what to do."""
        algorithm, probes = self.getAlgorithm(), self.getNumProbes()
        if self._by_cells and probes is not None:
            return (
                f"is out of reach of numProbes {probes} with algorithm {algorithm!r}",
                "Set a lower targetRecall, or a higher numProbes and call calibrate(queries).",
            )
        return (
            f"is out of reach of algorithm {algorithm!r}",
            "Set a lower targetRecall, other indexParams, or an exact algorithm such as 'auto' "
            "without targetRecall.",
        )

    def _described_recall(self) -> str:
        return "" if self.exact else f"recall {self.recall or 'unknown'}"

    # --- public members ---

    @property
    def exact(self) -> bool:
        """Whether a search returns the true nearest items: the algorithm and numProbes decide."""
        self._fitted  # noqa: B018 - raises an error for a model without an index
        if self._by_cells and self.getNumProbes() is not None:
            return False
        metric, storage = checked_metric(self), self.getStorage()
        return class_for(self.getAlgorithm(), metric, storage=storage).exact

    @property
    def recall(self) -> MeasuredRecall | None:
        """The measured recall of the search, see `MeasuredRecall`; None if the index is exact.

        With other `searchParams` than at fit, it is the recall of the most thorough of the measured
        searches that is not more thorough. It is None, too, if numProbes was changed after the
        measurement.
        """
        kind, measured, knob = self._approximate_class, self._measurement, self._knob()
        if kind is None or measured is None or knob is None:
            return None
        if measured.numProbes != self.getNumProbes():
            return None
        found = measured.curve.at(knob)
        params = {kind.search_name: found.knob}
        return MeasuredRecall(found.mean, found.low, found.high, found.queries, found.k, params)

    def calibrate(self: Self_, queries: DataFrame) -> Self_:
        """Return a model whose recall is measured with queries, instead of items, as at fit.

        It runs one Spark job or two, which search up to 2,048 of the queries exactly and at several
        levels of thoroughness, for the ``k`` of this model. Use it if the queries are distributed
        differently from the items, or after ``k`` or ``numProbes`` was changed. The queries are not
        kept: a model that `append` or `remove` returns is measured with its items, so calibrate it
        again.

        Parameters
        ----------
        queries : DataFrame
            The queries, with the features column and, if it is set, ``excludeIdCol``.

        Returns
        -------
        KNNModel, KNNClassificationModel or KNNRegressionModel
            A copy of this model that shares its index. This model does not change.

        Raises
        ------
        TypeError
            If `queries` is not a DataFrame.
        ValueError
            If the index is exact, if `queries` is a stream, or if it has no valid rows.

        Examples
        --------
        >>> from pyspark_knn import KNNEstimator
        >>> items = spark.range(200).selectExpr("id", "array(sin(id), cos(id)) AS features")
        >>> model = KNNEstimator(k=3, idCol="id", algorithm="ivf").fit(items)
        >>> model.calibrate(items.limit(50)).recall.numQueries
        50
        """
        compat.session_of(queries, "queries")
        if self._approximate_class is None:
            raise ValueError(
                f"calibrate requires an approximate algorithm, but {self.getAlgorithm()!r} is exact"
            )
        if queries.isStreaming:
            raise ValueError("queries is a stream. Calibrate with a batch of queries.")
        wanted = self._wanted()
        answer, limits = FoundLists(T.StructType(), ()), Limits(wanted.k, None)
        inputs, request = self._request(queries, answer, limits)
        invalid = "error" if self.getHandleInvalid() == "error" else "skip"
        sample = persist(_sample(queries, inputs, most_queries(wanted.k)))
        read = {name: Input(F.col(name), each.type) for name, each in inputs.items()}
        try:
            request = replace(request, handle_invalid=invalid)
            curve = self._fitted.recall_of(sample, read, request, wanted)
        finally:
            unpersist(sample)
        model = self.copy()
        model._remember(curve, wanted)
        model._warn_of_recall(stacklevel=3)
        return model


def _sample(queries: DataFrame, inputs: dict[str, Input], most: int) -> DataFrame:
    """Return inputs of some queries, which are numbered in the column `QUERY`."""
    read = queries.select(*(each.value.alias(name) for name, each in inputs.items()))
    few = read.orderBy(F.xxhash64(*inputs)).limit(most)
    return few.select(F.monotonically_increasing_id().alias(QUERY), "*")
