"""A Pipeline for grid search: it fits and runs what the candidates have in common once.

MLlib's ``Pipeline.fitMultiple`` fits every stage anew for each candidate and never calls a stage's
own ``fitMultiple``, which is where kNN models share their index and their search.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, cast

from pyspark.ml import Estimator, Pipeline, PipelineModel, Transformer
from pyspark.ml.param import Param
from pyspark.ml.pipeline import PipelineReader
from pyspark.ml.util import MLWriter
from pyspark.sql import DataFrame

from pyspark_knn.engine.shared_search import mark_derived
from pyspark_knn.engine.spark import compat
from pyspark_knn.fingerprint import fingerprint

ParamMap = dict[Param[Any], Any]


class SharedPrefixPipeline(Pipeline):
    """A drop-in for ``pyspark.ml.Pipeline`` that makes grid search over its last stage cheap.

    In a CrossValidator or TrainValidationSplit, each distinct prefix of stages (with the same
    Params) is fitted once for each fold, instead of once for each candidate, and the last estimator
    gets all its param maps through its own ``fitMultiple``. The fitted candidates share the output
    of their common prefix, so that those that end in a kNN model share its search too. The models
    and metrics are those of a plain Pipeline.

    It saves as a plain Pipeline does, and ``pyspark.ml.Pipeline.load`` reads it as well. What comes
    out of `fit` is a plain ``PipelineModel``.

    Parameters
    ----------
    stages : list of Estimator and Transformer
        As of ``pyspark.ml.Pipeline``.

    Examples
    --------
    >>> from pyspark.ml.evaluation import MulticlassClassificationEvaluator
    >>> from pyspark.ml.feature import StandardScaler
    >>> from pyspark.ml.linalg import Vectors
    >>> from pyspark.ml.tuning import CrossValidator, ParamGridBuilder
    >>> from pyspark_knn import KNNClassifier
    >>> items = spark.createDataFrame(
    ...     [(Vectors.dense(i % 7, i % 2), i % 2) for i in range(30)], ["raw", "label"])
    >>> knn = KNNClassifier()
    >>> pipeline = SharedPrefixPipeline(
    ...     stages=[StandardScaler(inputCol="raw", outputCol="features"), knn])
    >>> search = CrossValidator(
    ...     estimator=pipeline,
    ...     estimatorParamMaps=ParamGridBuilder().addGrid(knn.k, [1, 3]).build(),
    ...     evaluator=MulticlassClassificationEvaluator(metricName="accuracy"), seed=1)
    >>> [float(accuracy) for accuracy in search.fit(items).avgMetrics]
    [1.0, 1.0]
    """

    def _fit(self, dataset: DataFrame) -> PipelineModel:
        compat.session_of(dataset)
        return super()._fit(dataset)

    def fitMultiple(
        self, dataset: DataFrame, paramMaps: Sequence[ParamMap]
    ) -> Iterator[tuple[int, PipelineModel]]:
        """Fit a PipelineModel for each of `paramMaps`; thread-safe.

        Parameters
        ----------
        dataset : DataFrame
            What to fit on.
        paramMaps : sequence of dict
            Param -> value, of any stages.

        Returns
        -------
        iterator of (int, PipelineModel)
            The index into `paramMaps`, and the model.
        """
        compat.session_of(dataset)
        at = max(
            (i for i, stage in enumerate(self.getStages()) if isinstance(stage, Estimator)),
            default=None,
        )
        replaced = any(self.stages in params for params in paramMaps)
        if at is None or replaced:  # nothing to fit, or pipelines that have nothing in common
            return super().fitMultiple(dataset, paramMaps)
        return _Fits(self.copy(), at, dataset, paramMaps)

    @classmethod
    def read(cls) -> PipelineReader:
        """A reader of what this class or a plain Pipeline saved."""
        return _Reader(cls)


class _Reader(PipelineReader):
    def load(self, path: str) -> Pipeline:
        plain = Pipeline.load(path)
        loaded = self.cls(stages=plain.getStages())
        loaded._resetUid(plain.uid)
        return loaded


# --- fitting --------------------------------------------------------------------------------------


class _Prefix:
    """Stages before the last estimator; each distinct one is fitted once.

    Parameters
    ----------
    dataset : DataFrame
        What the first stage is fitted on.
    parent : _Prefix, optional
        The stages before.
    stage : Estimator or Transformer, optional
        What comes next; none at the root.
    """

    def __init__(self, dataset: DataFrame, parent: _Prefix | None = None, stage: Any = None):
        self.shared = _SharedOutput()
        self._parent = parent
        self._stage = stage
        self._lock = threading.Lock()
        self._children: dict[Hashable, _Prefix] = {}
        self._fitted: tuple[list[Transformer], DataFrame] | None = None
        self._dataset = dataset

    def child(self, stage: Any) -> _Prefix:
        """The prefix that `stage` makes longer; the same one for the same Params."""
        key = fingerprint(stage)
        if key not in self._children:
            self._children[key] = _Prefix(self._dataset, self, stage)
        return self._children[key]

    def fit(self) -> tuple[list[Transformer], DataFrame]:
        """The fitted stages, and what they make of the dataset."""
        if self._parent is None:
            return [], self._dataset
        with self._lock:
            if self._fitted is None:
                before, dataset = self._parent.fit()
                stage = self._stage
                fitted = stage.fit(dataset) if isinstance(stage, Estimator) else stage
                self._fitted = [*before, fitted], fitted.transform(dataset)
            return self._fitted


class _Group:
    """Candidates that have a prefix in common: their last estimator gets all their maps at once."""

    def __init__(self, prefix: _Prefix, last: Estimator[Any]) -> None:
        self.prefix = prefix
        self.candidates: list[tuple[int, ParamMap, list[Transformer]]] = []
        self._last = last
        self._lock = threading.Lock()
        self._models: Iterator[tuple[int, Transformer]] | None = None

    def fit_next(self) -> tuple[int, PipelineModel]:
        """One more model; to be called as often as there are candidates."""
        stages, dataset = self.prefix.fit()
        with self._lock:
            if self._models is None:
                maps = [params for _, params, _ in self.candidates]
                self._models = self._last.fitMultiple(dataset, maps)
        # Outside of the lock: estimators of MLlib fit side by side.
        which, model = next(self._models)
        index, _, after = self.candidates[which]
        shared = self.prefix.shared
        return index, _CandidateModel([*stages, model, *after], len(stages), shared)


class _Fits:
    """An iterator of fitted candidates, which several threads may share."""

    def __init__(
        self, pipeline: Pipeline, at: int, dataset: DataFrame, paramMaps: Sequence[ParamMap]
    ) -> None:
        root = _Prefix(dataset)
        groups: dict[_Prefix, _Group] = {}
        tickets = []
        for index, params in enumerate(paramMaps):
            stages: list[Any] = pipeline.copy(params).getStages()
            prefix = root
            for stage in stages[:at]:
                prefix = prefix.child(stage)
            if prefix not in groups:
                groups[prefix] = _Group(prefix, cast("Any", pipeline.getStages()[at]))
            groups[prefix].candidates.append((index, params, stages[at + 1 :]))
            tickets.append(groups[prefix])
        self._tickets = iter(tickets)
        self._lock = threading.Lock()

    def __iter__(self) -> _Fits:
        return self

    def __next__(self) -> tuple[int, PipelineModel]:
        with self._lock:
            group = next(self._tickets)
        return group.fit_next()


# --- models ---------------------------------------------------------------------------------------


class _SharedOutput:
    """What the stages of a prefix make of a DataFrame: one DataFrame, as long as that is alive."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: weakref.WeakKeyDictionary[DataFrame, dict[Hashable, DataFrame]] = (
            weakref.WeakKeyDictionary()
        )

    def of(self, stages: Sequence[Transformer], dataset: DataFrame) -> DataFrame:
        """What `stages`, a prefix that was fitted once, make of `dataset`."""
        # Params of a fitted stage can still be set: they are part of the key.
        key = tuple(fingerprint(stage) for stage in stages)
        with self._lock:
            made = self._made.setdefault(dataset, {})
            if key not in made:
                output = dataset
                for stage in stages:
                    output = stage.transform(output)
                if output is dataset:  # as its own value it would never die
                    return output
                made[key] = output
            output = made[key]
        mark_derived(output, dataset)
        return output


class _CandidateModel(PipelineModel):
    """A PipelineModel that shares the output of its first stages with its siblings."""

    def __init__(self, stages: list[Transformer], count: int, shared: _SharedOutput) -> None:
        super().__init__(stages)
        self._count = count
        self._prefix = stages[:count]
        self._shared = shared

    def _transform(self, dataset: DataFrame) -> DataFrame:
        prefix = self.stages[: self._count]
        # `stages` is public: what somebody else fitted has nothing in common with the siblings.
        if [*map(id, prefix)] != [*map(id, self._prefix)]:
            return super()._transform(dataset)
        dataset = self._shared.of(prefix, dataset)
        for stage in self.stages[self._count :]:
            dataset = stage.transform(dataset)
        return dataset

    def copy(self, extra: ParamMap | None = None) -> _CandidateModel:
        """A copy with other Params."""
        return _CandidateModel(super().copy(extra).stages, self._count, self._shared)

    def write(self) -> MLWriter:
        """A writer of a plain PipelineModel."""
        plain = PipelineModel(self.stages)
        plain._resetUid(self.uid)
        return plain.write()
