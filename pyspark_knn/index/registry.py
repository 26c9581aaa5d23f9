"""The registry of search algorithms: their names, and the index classes behind them.

An algorithm is a name, a value of the `algorithm` Param, and one or more index classes. A class
states what it is: the metrics that it supports, whether it is exact, the options that it reads (see
`pyspark_knn.index.base.NeighborIndex`). Of the classes of an algorithm, the first one that supports
the metric is used.

To add an algorithm to this package, write the class in a module of its own, and add one line to
`_BUILT_IN`. To add one from outside of the package, register the class before `fit` or `load`::

    from my_package.my_index import MyIndex
    from pyspark_knn.index.registry import register

    register(MyIndex)
    model = KNNEstimator(algorithm=MyIndex.algorithm).fit(items)

For a type checker, cast the name: ``cast(AlgorithmName, MyIndex.algorithm)``, see
`pyspark_knn.literals`.

Register it on the driver only. The Python workers must be able to import the module of the class:
install it there, or send it with ``spark.sparkContext.addPyFile`` (``spark.addArtifact`` on Spark
Connect). They import it for a model that uses it, and for a sharded fit with the algorithm "auto",
which compares all registered classes. A saved model contains the name of its
algorithm and never the class, so a program that loads the model registers the class first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from pyspark_knn.index.base import OPTIONS, Entry
from pyspark_knn.index.found import DENSE, SPARSE
from pyspark_knn.suggestions import did_you_mean

if TYPE_CHECKING:
    import numpy as np

    from pyspark_knn.index.approximate.base import ApproximateIndex
    from pyspark_knn.index.base import IndexSpec, NeighborIndex
    from pyspark_knn.index.distances import Metric

    Class = TypeVar("Class", bound=type[NeighborIndex])


_BUILT_IN: tuple[Entry, ...] = (
    Entry("brute", "pyspark_knn.index.block_search:BlockSearch"),
    Entry("brute", "pyspark_knn.index.terms.search:TermSearch"),
    Entry("brute", "pyspark_knn.index.missing.search:MissingSearch"),
    Entry("brute", "pyspark_knn.index.pairwise:PairwiseSearch"),
    Entry("brute", "pyspark_knn.index.sparse.search:SparseSearch"),
    Entry("brute", "pyspark_knn.index.sparse.sets:SparseSetSearch"),
    Entry("kd_tree", "pyspark_knn.index.sklearn_index:KDTreeSearch"),
    Entry("ball_tree", "pyspark_knn.index.sklearn_index:BallTreeSearch"),
    Entry("ivf", "pyspark_knn.index.approximate.ivf:IVFSearch", exact=False),
    Entry("hnsw", "pyspark_knn.index.approximate.hnsw:HNSWSearch", exact=False),
    Entry("annoy", "pyspark_knn.index.approximate.annoy:AnnoySearch", exact=False),
)
"""The algorithms of this package, in the order in which "auto" tries them: the first one that
supports the metric is the one that the others must beat."""

TRIED = ("ivf",)
"""The approximate algorithms that "auto" tries. At equal recall, hnsw and annoy were slower on all
data of `benchmarks/approximate.py`, and building an hnsw takes as long as 50,000 to 110,000 exact
queries."""

_entries = _BUILT_IN


def register(index_class: Class) -> Class:
    """Register a class, so that the `algorithm` Param accepts its name. Can be used as a decorator.

    Parameters
    ----------
    index_class : type
        A subclass of `NeighborIndex` that is defined at the top level of a module. It replaces a
        class of the same name and module, as when a module is loaded again.

    Returns
    -------
    type
        The same class.

    Raises
    ------
    ValueError
        If the workers could not import the class, if its algorithm is called "auto", or if it reads
        an option that `IndexSpec` does not have.
    """
    global _entries
    name = index_class.__qualname__
    if index_class.__module__ == "__main__" or "." in name:
        raise ValueError(
            f"index class {name!r} must be defined at the top level of a module that the Python "
            f"workers can import, got one of module {index_class.__module__!r}"
        )
    unknown = sorted(index_class.options - OPTIONS)
    if unknown or index_class.algorithm == "auto":
        raise ValueError(
            f"index class {name!r} must have an algorithm other than 'auto' and options among "
            f"{sorted(OPTIONS)}, got algorithm {index_class.algorithm!r} and options {unknown}"
        )
    entry = _entry_of(index_class)
    _entries = (*(each for each in _entries if each != entry), entry)
    return index_class


def unregister(index_class: type[NeighborIndex]) -> None:
    """Remove a class that `register` added. The classes of this package cannot be removed.

    Parameters
    ----------
    index_class : type
        The class; one that is not registered is ignored.
    """
    global _entries
    entry = _entry_of(index_class)
    _entries = tuple(each for each in _entries if each in _BUILT_IN or each != entry)


def _entry_of(index_class: type[NeighborIndex]) -> Entry:
    location = f"{index_class.__module__}:{index_class.__qualname__}"
    return Entry(index_class.algorithm, location, index_class.exact)


def entries() -> tuple[Entry, ...]:
    """Return the classes that are registered in this process, those of this package first.

    Returns
    -------
    tuple of Entry
        The entries, in the order in which "auto" tries them.
    """
    return _entries


def algorithm_choices() -> tuple[str, ...]:
    """Return the values of the `algorithm` Param.

    Returns
    -------
    tuple of str
        "auto", and the name of each algorithm.
    """
    return ("auto", *_names(_entries))


def exact_choices() -> tuple[str, ...]:
    """Return the values of the `algorithm` Param of a stage whose search must be exact.

    Returns
    -------
    tuple of str
        "auto", and the name of each exact algorithm.
    """
    return ("auto", *_names(tuple(each for each in _entries if each.exact)))


def approximate_classes() -> dict[str, type[ApproximateIndex]]:
    """Return the class of each approximate algorithm, by its name.

    Returns
    -------
    dict of str to type
        The classes that are registered in this process.
    """
    from pyspark_knn.index.approximate.base import ApproximateIndex

    found = {entry.algorithm: entry.load() for entry in _entries if not entry.exact}
    return {name: each for name, each in found.items() if issubclass(each, ApproximateIndex)}


def expected_bytes(spec: IndexSpec, shape: tuple[int, int], dtype: np.dtype[np.floating]) -> int:
    """Return about how many bytes an index takes in addition to its items, before it is built.

    Parameters
    ----------
    spec : IndexSpec
        How to index the items.
    shape : (int, int)
        The number of items, and of their features.
    dtype : numpy dtype
        The type of their vectors.

    Returns
    -------
    int
        The bytes of an approximate index: what "auto" with a target of the recall may choose
        counts. 0 if the index is exact.
    """
    names: tuple[str, ...] = (spec.algorithm,)
    if spec.algorithm == "auto":
        names = TRIED if spec.target_recall is not None else ()
    known = approximate_classes()
    kinds = [known[name] for name in names if name in known]
    sizes = [
        each.expected_bytes(shape, dtype, spec) for each in kinds if each.supports(spec.metric)
    ]
    return max(sizes, default=0)


def class_for(
    algorithm: str,
    metric: Metric,
    registered: tuple[Entry, ...] | None = None,
    storage: str = DENSE,
) -> type[NeighborIndex]:
    """Return the class of an algorithm, for a metric and a storage that it supports.

    Parameters
    ----------
    algorithm : str
        The name of an algorithm, not "auto".
    metric : Metric
        A resolved metric.
    registered : tuple of Entry, optional
        The classes to choose from; by default those that are registered in this process.
    storage : {"dense", "sparse"}, default="dense"
        How the vectors are stored.

    Returns
    -------
    type
        The first class of the algorithm that supports the metric and the storage.

    Raises
    ------
    TypeError
        If `algorithm` is not a string.
    ValueError
        If there is no such algorithm, or if it does not support the metric or the storage.
    """
    registered = _entries if registered is None else registered
    if not isinstance(algorithm, str):
        raise TypeError(f"algorithm must be a string, got {algorithm!r}")
    names = _names(registered)
    if algorithm not in names:
        end = did_you_mean(algorithm, names) or "."
        raise ValueError(
            f"unknown algorithm {algorithm!r}. Supported: {_quoted('auto', *names)}{end}"
        )
    found = _find(algorithm, metric, registered, storage)
    if found is None:
        weights = " and weights" if "w" in metric.params else ""
        raise ValueError(
            f"algorithm {algorithm!r} does not support metric {metric.described}{weights}"
            f"{with_storage(storage)}. "
            f"Supported: {_quoted('auto', *classes_for(metric, registered, storage))}."
        )
    return found


def classes_for(
    metric: Metric, registered: tuple[Entry, ...] | None = None, storage: str = DENSE
) -> dict[str, type[NeighborIndex]]:
    """Return the class of each algorithm that supports a metric, in the order of the registry.

    Parameters
    ----------
    metric, registered, storage
        See `class_for`.

    Returns
    -------
    dict of str to type
        The name of each algorithm, and the class that serves it for the metric.
    """
    registered = _entries if registered is None else registered
    found = {name: _find(name, metric, registered, storage) for name in _names(registered)}
    return {name: each for name, each in found.items() if each is not None}


def sparse_metrics() -> tuple[str, ...]:
    """Return the canonical names of the metrics of sparse vectors, in alphabetical order.

    Returns
    -------
    tuple of str
        The names. Of minkowski, a p of 2 only.
    """
    sparse = [found for entry in _entries if (found := entry.load()).storage == SPARSE]
    return tuple(sorted(frozenset().union(*(each.metrics for each in sparse))))


def check_algorithm(algorithm: str, metric: Metric, storage: str = DENSE) -> None:
    """Raise an error unless an algorithm exists and supports a metric; "auto" supports all.

    Parameters
    ----------
    algorithm : str
        "auto", or the name of an algorithm.
    metric : Metric
        A resolved metric.
    storage : {"dense", "sparse"}, default="dense"
        How the vectors are stored.

    Raises
    ------
    TypeError, ValueError
        See `class_for`.
    """
    if algorithm != "auto":
        class_for(algorithm, metric, storage=storage)


def with_storage(storage: str) -> str:
    """Return a storage as part of a message; "" for dense, which needs no mention."""
    return "" if storage == DENSE else f" with storage {storage!r}"


def _find(
    algorithm: str, metric: Metric, registered: tuple[Entry, ...], storage: str
) -> type[NeighborIndex] | None:
    for entry in registered:
        if entry.algorithm == algorithm:
            found = entry.load()
            if found.storage == storage and found.supports(metric):
                return found
    return None


def _names(registered: tuple[Entry, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(entry.algorithm for entry in registered))


def _quoted(*names: str) -> str:
    return ", ".join(map(repr, names))
