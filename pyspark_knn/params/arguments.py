"""The keyword arguments of constructors and of setParams, and errors for names that are not Params.

Users come from scikit-learn and from other stages of MLlib, whose parameters have other names.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, cast

from pyspark_knn.engine.spark import hints
from pyspark_knn.suggestions import nearest, plain

Function = TypeVar("Function", bound=Callable[..., Any])

_ESTIMATORS = ("KNNEstimator", "KNNClassifier", "KNNRegressor", "LocalOutlierFactor", "KNNImputer")

_SYNONYMS: dict[str, tuple[str, ...]] = {
    "k": ("nneighbors", "numneighbors", "neighbors", "topk", "kneighbors", "numnearestneighbors"),
    "maxDistance": ("radius", "distancethreshold", "eps", "epsilon"),
    "metric": ("distancemeasure", "distance", "distancemetric", "similarity"),
    "featuresCol": ("inputcol", "vectorcol", "embeddingcol"),
    "labelCol": ("targetcol", "target"),
    "weightCol": ("sampleweight", "instanceweightcol"),
    "neighborsCol": ("outputcol", "indicescol"),
    "distancesCol": ("distcol", "distancecol"),
    "numShards": ("numpartitions", "npartitions", "numblocks"),
    "missingValue": ("missingvalues",),
    "standardization": ("standardize", "normalize"),
    "seed": ("randomstate",),
    "targetRecall": ("recall",),
    "indexParams": ("nlist", "m", "efconstruction", "ntrees"),
    "searchParams": ("nprobe", "ef", "efsearch", "searchk"),
}
"""Param -> names that other libraries have for it, in the form of `suggestions.plain`."""

_WITHOUT_PARAM = {
    "njobs": "Omit it: a search runs on all cores of the Spark application.",
    "numthreads": "Omit it: a search runs on all cores of the Spark application.",
    "randomstate": "Omit it: the answer does not depend on random numbers.",
    "copy": "Omit it: the input is never changed.",
    "novelty": "Omit it: transform scores other rows, and model.scores() scores the items.",
    "inputcols": "Combine the columns into one vector with pyspark.ml.feature.VectorAssembler, and "
    "set featuresCol.",
    "numhashtables": "Omit it: it is a parameter of MLlib's locality-sensitive hashing.",
    "bucketlength": "Omit it: it is a parameter of MLlib's locality-sensitive hashing.",
}
"""Parameters of other libraries that have no equivalent, and what to do instead."""


def keyword_only(function: Function) -> Function:
    """Make a method of a stage take keyword arguments only; they are kept in `_input_kwargs`.

    This is pyspark's decorator of the same name with errors that name the right Param.

    Parameters
    ----------
    function : callable
        A constructor or `setParams`, all of whose arguments are Params.

    Returns
    -------
    callable
        The method.
    """
    names = tuple(inspect.signature(function).parameters)[1:]

    @functools.wraps(function)
    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        kind = type(self).__name__
        if args:
            raise TypeError(
                f"{kind} takes its Params as keyword arguments, for example {names[0]}=..., got "
                f"{hints.described(args[0])} without a keyword"
            )
        for name in kwargs:
            if name not in names:
                raise TypeError(f"{name} is not a Param of {kind}. {_advice(name, names)}")
        self._input_kwargs = kwargs
        return function(self, **kwargs)

    return cast("Function", checked)


def _advice(name: str, names: Sequence[str]) -> str:
    """Return what to write instead of an unknown name."""
    given = plain(name)
    ours = {plain(param): param for param in names}
    theirs = {synonym: param for param in names for synonym in _SYNONYMS.get(param, ())}
    if param := (theirs | ours).get(given):
        return f"Use {param}{' with k=None' if given == 'radius' else ''}."
    if given in _WITHOUT_PARAM:
        return _WITHOUT_PARAM[given]
    if owners := list(_owners(given)):
        return f"It is a Param of {' and '.join(owners)}."
    found = nearest(name, names)
    return f"Did you mean {found}?" if found else f"Params: {', '.join(names)}."


def _owners(given: str) -> Iterable[str]:
    """Yield the estimators of this package that have a Param of this name."""
    import pyspark_knn

    for name in _ESTIMATORS:
        if given in map(plain, inspect.signature(getattr(pyspark_knn, name)).parameters):
            yield name
