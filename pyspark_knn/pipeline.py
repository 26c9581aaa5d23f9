"""A Pipeline for grid search, which fits and runs the stages that candidates share only once.

MLlib's ``Pipeline.fitMultiple`` fits every stage again for each candidate and never calls the
``fitMultiple`` of a stage, in which kNN models share their index and their search.
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

from pyspark_knn.display import Shown
from pyspark_knn.engine.shared_search import mark_derived
from pyspark_knn.engine.spark import compat
from pyspark_knn.estimators.fingerprint import fingerprint

ParamMap = dict[Param[Any], Any]


class SharedPrefixPipeline(Shown, Pipeline):
    """A drop-in replacement for ``pyspark.ml.Pipeline`` that makes grid search faster.

    In a CrossValidator or TrainValidationSplit, each distinct prefix of stages (with the same
    Params) is fitted once per fold instead of once per candidate, and the last estimator gets all
    its param maps in one call of its ``fitMultiple``. The fitted candidates share the output of
    their common prefix, so candidates that end in a kNN model share its search as well. The models
    and metrics are those of a plain Pipeline.

    It is saved like a plain Pipeline and can also be loaded by ``pyspark.ml.Pipeline.load``. `fit`
    returns a plain ``PipelineModel``.

    Parameters
    ----------
    stages : list of Estimator and Transformer
        The stages, as in ``pyspark.ml.Pipeline``.

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

    @classmethod
    def load(cls, path: str) -> SharedPrefixPipeline:
        """Load a saved SharedPrefixPipeline or a saved plain Pipeline; see `read`."""
        return cast("SharedPrefixPipeline", super().load(path))

    def fitMultiple(
        self, dataset: DataFrame, paramMaps: Sequence[ParamMap]
    ) -> Iterator[tuple[int, PipelineModel]]:
        """Fit a PipelineModel for each of `paramMaps`; thread-safe.

        Parameters
        ----------
        dataset : DataFrame
            The data to fit the stages on.
        paramMaps : sequence of dict
            The Params of any stages that each fit overrides: Param -> value.

        Returns
        -------
        iterator of (int, PipelineModel)
            The index into `paramMaps`, and the model of that param map.
        """
        compat.session_of(dataset)
        last = max(
            (i for i, stage in enumerate(self.getStages()) if isinstance(stage, Estimator)),
            default=None,
        )
        replaced = any(self.stages in params for params in paramMaps)
        if last is None or replaced:  # nothing to fit, or no stages to share
            return super().fitMultiple(dataset, paramMaps)
        return _Fits(self.copy(), last, dataset, paramMaps)

    @classmethod
    def read(cls) -> PipelineReader:
        """Return a reader that loads a saved SharedPrefixPipeline or a saved plain Pipeline."""
        return _Reader(cls)


class _Reader(PipelineReader):
    def load(self, path: str) -> Pipeline:
        plain = Pipeline.load(path)
        loaded = self.cls(stages=plain.getStages())
        loaded._resetUid(plain.uid)
        return loaded


# --- fitting --------------------------------------------------------------------------------------


class _Prefix:
    """A sequence of stages before the last estimator, which is fitted once.

    Parameters
    ----------
    dataset : DataFrame
        The data that the first stage is fitted on.
    parent : _Prefix, optional
        The prefix without its last stage; None for the empty prefix.
    stage : Estimator or Transformer, optional
        The last stage of this prefix; None for the empty prefix.
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
        """Return this prefix followed by `stage`; the same object for the same Params."""
        key = fingerprint(stage)
        if key not in self._children:
            self._children[key] = _Prefix(self._dataset, self, stage)
        return self._children[key]

    def fit(self) -> tuple[list[Transformer], DataFrame]:
        """Return the fitted stages, and the dataset transformed by them."""
        if self._parent is None:
            return [], self._dataset
        with self._lock:
            if self._fitted is None:
                before, dataset = self._parent.fit()
                stage = self._stage
                fitted = stage.fit(dataset) if isinstance(stage, Estimator) else stage
                self._fitted = [*before, fitted], fitted.transform(dataset)
            return self._fitted


class _PrefixGroup:
    """Candidates with the same prefix, whose last estimator gets all their param maps at once."""

    def __init__(self, prefix: _Prefix, last: Estimator[Any]) -> None:
        self.prefix = prefix
        self.candidates: list[tuple[int, ParamMap, list[Transformer]]] = []
        self._last = last
        self._lock = threading.Lock()
        self._models: Iterator[tuple[int, Transformer]] | None = None

    def fit_next(self) -> tuple[int, PipelineModel]:
        """Fit and return the next model; call it once per candidate."""
        stages, dataset = self.prefix.fit()
        with self._lock:
            if self._models is None:
                maps = [params for _, params, _ in self.candidates]
                self._models = self._last.fitMultiple(dataset, maps)
        # Outside of the lock, so that estimators of MLlib fit concurrently.
        which, model = next(self._models)
        index, _, after = self.candidates[which]
        shared = self.prefix.shared
        return index, _CandidateModel([*stages, model, *after], len(stages), shared)


class _Fits:
    """An iterator over the fitted candidates; thread-safe."""

    def __init__(
        self, pipeline: Pipeline, last: int, dataset: DataFrame, paramMaps: Sequence[ParamMap]
    ) -> None:
        root = _Prefix(dataset)
        groups: dict[_Prefix, _PrefixGroup] = {}
        group_of_candidate = []
        for index, params in enumerate(paramMaps):
            stages: list[Any] = pipeline.copy(params).getStages()
            prefix = root
            for stage in stages[:last]:
                prefix = prefix.child(stage)
            if prefix not in groups:
                groups[prefix] = _PrefixGroup(prefix, cast("Any", pipeline.getStages()[last]))
            groups[prefix].candidates.append((index, params, stages[last + 1 :]))
            group_of_candidate.append(groups[prefix])
        self._groups = iter(group_of_candidate)
        self._lock = threading.Lock()

    def __iter__(self) -> _Fits:
        return self

    def __next__(self) -> tuple[int, PipelineModel]:
        with self._lock:
            group = next(self._groups)
        return group.fit_next()


# --- models ---------------------------------------------------------------------------------------


class _SharedOutput:
    """The outputs of a prefix: one DataFrame per input, as long as the input is alive."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: weakref.WeakKeyDictionary[DataFrame, dict[Hashable, DataFrame]] = (
            weakref.WeakKeyDictionary()
        )

    def of(self, stages: Sequence[Transformer], dataset: DataFrame) -> DataFrame:
        """Return `dataset` transformed by `stages`, the fitted prefix."""
        # Params of a fitted stage can still be set, so they are part of the key.
        key = tuple(fingerprint(stage) for stage in stages)
        with self._lock:
            made = self._made.setdefault(dataset, {})
            if key not in made:
                output = dataset
                for stage in stages:
                    output = stage.transform(output)
                if output is dataset:  # a key that is its own value is never collected
                    return output
                made[key] = output
            output = made[key]
        mark_derived(output, dataset)
        return output


class _CandidateModel(PipelineModel):
    """A PipelineModel that shares the output of its first stages with other candidates."""

    def __init__(self, stages: list[Transformer], count: int, shared: _SharedOutput) -> None:
        super().__init__(stages)
        self._count = count
        self._prefix = stages[:count]
        self._shared = shared

    def _transform(self, dataset: DataFrame) -> DataFrame:
        prefix = self.stages[: self._count]
        # `stages` is public: stages that were replaced are not shared with other candidates.
        if [*map(id, prefix)] != [*map(id, self._prefix)]:
            return super()._transform(dataset)
        dataset = self._shared.of(prefix, dataset)
        for stage in self.stages[self._count :]:
            dataset = stage.transform(dataset)
        return dataset

    def copy(self, extra: ParamMap | None = None) -> _CandidateModel:
        """Return a copy with the Params of `extra`."""
        return _CandidateModel(super().copy(extra).stages, self._count, self._shared)

    def write(self) -> MLWriter:
        """Return a writer that saves a plain PipelineModel."""
        plain = PipelineModel(self.stages)
        plain._resetUid(self.uid)
        return plain.write()
