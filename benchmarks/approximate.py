"""Time approximate indexes at equal recall, on one thread and without Spark.

    python benchmarks/approximate.py [--part curves promise] [--million] [--plot docs/recall.svg]
    python benchmarks/approximate.py --part spark [--data clusters] [--algorithms ivf hnsw]

`curves`: the exact search, the approximate indexes, bare FAISS, usearch and hnswlib take turns,
each with the cheapest knob that reaches the target. Ours are calibrated as `fit` does it, on
held-out items; all are judged on other queries. Times are CPU times of one thread.

`promise`: five data sets, k of 1, 10 and 100, four targets: whether the recall on other queries
reaches the target less the interval of the calibration, cell by cell.

`spark`: the search on two cores, beside FAISS in a function for `mapInArrow`, at equal recall.

The `bench` extra adds the contestants and the data, but for hnswlib, which needs a C++ compiler to
install; those that are not installed are omitted.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _approximate_data import DATA, PROMISE, Matrix, clusters
from _harness import check, median, show
from threadpoolctl import threadpool_limits

from pyspark_knn.index.approximate.base import ApproximateIndex
from pyspark_knn.index.approximate.knobs import levels
from pyspark_knn.index.auto import build_index
from pyspark_knn.index.base import IndexSpec, NeighborIndex
from pyspark_knn.index.distances import resolve_metric
from pyspark_knn.index.recall import (
    Recall,
    calibrate,
    held_out_positions,
    measure,
    measuring,
    recall,
)
from pyspark_knn.index.registry import class_for

K = 10
TARGETS = (0.9, 0.95, 0.99)
EUCLIDEAN = resolve_metric("euclidean")
Search = Callable[[Matrix], Any]

OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "ivf": ("ivf", {}),
    "ivf sq8": ("ivf", {"encoding": "sq8"}),
    "hnsw": ("hnsw", {}),
    "annoy": ("annoy", {}),
}


class Contestant(NamedTuple):
    """An index, its build time, and a search for each target.

    Attributes
    ----------
    name : str
        Its name.
    seconds : float
        CPU seconds of the build.
    knobs : dict of float to int
        Target -> the cheapest knob that reaches it.
    search : callable
        Makes a search with a knob: queries -> squared or plain distances, or positions.
    """

    name: str
    seconds: float
    knobs: dict[float, int]
    search: Callable[[int], Search]


# --- contestants ----------------------------------------------------------------------------------


def ours(name: str, items: Matrix) -> Contestant:
    """Build one of our indexes and calibrate it on held-out items."""
    algorithm, params = OURS[name]
    begin = time.process_time()
    spec = IndexSpec(EUCLIDEAN, algorithm, index_params=params)
    index = class_for(algorithm, EUCLIDEAN).build(items, spec)
    seconds = time.process_time() - begin
    assert isinstance(index, ApproximateIndex)
    knobs = tuned(measuring(index, held_out_positions(len(items)), K), index.knob_levels())

    def search(knob: int) -> Search:
        found = index.with_knob(knob)
        return lambda queries: found.kneighbors(queries, K).positions

    return Contestant(name, seconds, knobs, search)


def bare(
    name: str, make: Callable[[Matrix], Callable[[int], Search]], ladder: list[int], data: Trial
) -> Contestant:
    """Build a bare library and tune it on queries of its own."""
    begin = time.process_time()
    search = make(data.items)
    seconds = time.process_time() - begin

    def measured(knob: int) -> Recall:
        found = data.exact_distances(data.tuning, search(knob)(data.tuning)[:, :K])
        return Recall.of(recall(found, data.tuning_distances), K, knob)

    return Contestant(name, seconds, tuned(measured, ladder), search)


def tuned(measured: Callable[[int], Recall], ladder: list[int]) -> dict[float, int]:
    """Return the cheapest knob that reaches each target."""
    once = functools.cache(measured)
    return {each: calibrate(once, ladder, each).reaching(each).knob for each in TARGETS}


def faiss_ivf(items: Matrix) -> Callable[[int], Search]:
    """Return FAISS's IVFFlat with as many lists as ours."""
    import faiss

    index = faiss.index_factory(items.shape[1], f"IVF{max(1, int(4 * len(items) ** 0.5))},Flat")
    index.train(items)
    index.add(items)

    def search(knob: int) -> Search:
        params = faiss.SearchParametersIVF(nprobe=knob)
        return lambda queries: index.search(queries, K, params=params)[1]

    return search


def faiss_hnsw(items: Matrix) -> Callable[[int], Search]:
    """Return FAISS's HNSW."""
    import faiss

    index = faiss.IndexHNSWFlat(items.shape[1], 16)
    index.add(items)

    def search(knob: int) -> Search:
        params = faiss.SearchParametersHNSW(efSearch=knob)
        return lambda queries: index.search(queries, K, params=params)[1]

    return search


def usearch(items: Matrix) -> Callable[[int], Search]:
    """Return the graph of usearch."""
    from usearch.index import Index

    index = Index(ndim=items.shape[1], metric="l2sq", connectivity=16)
    index.add(np.arange(len(items)), items, threads=1)

    def search(knob: int) -> Search:
        def run(queries: Matrix) -> Any:
            index.expansion_search = knob
            return np.asarray(index.search(queries, K, threads=1).keys, np.int64)

        return run

    return search


def hnswlib(items: Matrix) -> Callable[[int], Search]:
    """Return the graph of hnswlib, with as many links as that of FAISS."""
    from hnswlib import Index

    index = Index("l2", items.shape[1])
    index.init_index(len(items), M=16, ef_construction=40)
    index.add_items(items, num_threads=1)

    def search(knob: int) -> Search:
        def run(queries: Matrix) -> Any:
            index.set_ef(max(knob, K))
            return index.knn_query(queries, K, num_threads=1)[0].astype(np.int64)

        return run

    return search


BARE: dict[str, tuple[str, Callable[[Matrix], Callable[[int], Search]], list[int]]] = {
    "bare faiss IVF": ("faiss", faiss_ivf, levels(1, 1000)),
    "bare faiss HNSW": ("faiss", faiss_hnsw, levels(10, 2000)),
    "bare usearch": ("usearch", usearch, levels(10, 2000)),
    "bare hnswlib": ("hnswlib", hnswlib, levels(10, 2000)),
}


# --- recall against time --------------------------------------------------------------------------


class Trial:
    """The items, the queries that tune bare libraries, and those that judge all contestants."""

    def __init__(self, data: Matrix, n_queries: int) -> None:
        rows = np.ascontiguousarray(data, np.float32)
        self.items = rows[: -2 * n_queries]
        self.tuning, self.queries = rows[-2 * n_queries : -n_queries], rows[-n_queries:]
        begin = time.process_time()
        self.exact, self.reason = build_index(self.items, IndexSpec(EUCLIDEAN))
        self.seconds = time.process_time() - begin
        self.tuning_distances = self.exact.kneighbors(self.tuning, K).distances
        self.distances = self.exact.kneighbors(self.queries, K).distances

    def exact_distances(self, queries: Matrix, positions: Any) -> Any:
        """Return the distances of what a search found, in ascending order."""
        rows = np.repeat(np.arange(len(queries)), positions.shape[1])
        found = EUCLIDEAN.distances(queries, self.items, rows, np.maximum(positions, 0).ravel())
        found = np.where(positions < 0, np.inf, found.reshape(positions.shape))
        return np.sort(found, axis=1)


def curves(name: str, data: Matrix, names: list[str], n_queries: int, rounds: int) -> list[Any]:
    """Print a table of recall and time; return the points of the plot."""
    trial = Trial(data, n_queries)
    found = [ours(each, trial.items) for each in OURS if each in names]
    for each, (package, make, ladder) in BARE.items():
        if each in names and importlib.util.find_spec(package):
            found.append(bare(each, make, ladder, trial))
    searches: dict[tuple[str, float], Search] = {
        (each.name, target): each.search(each.knobs[target]) for each in found for target in TARGETS
    }
    seconds: dict[Any, list[float]] = {key: [] for key in [("exact", 1.0), *searches]}
    answers: dict[Any, Any] = {}
    runs = {("exact", 1.0): lambda queries: trial.exact.kneighbors(queries, K).positions}
    for _ in range(rounds):
        for key, run in {**runs, **searches}.items():
            begin = time.process_time()
            answers[key] = run(trial.queries)
            seconds[key].append((time.process_time() - begin) / len(trial.queries))
    exact = median(seconds["exact", 1.0])
    rows, points = [], []
    for each in found:
        row: list[object] = [each.name, f"{each.seconds:.1f}", f"{each.seconds / exact:,.0f}"]
        for target in TARGETS:
            distances = trial.exact_distances(trial.queries, answers[each.name, target])
            mean = recall(distances, trial.distances).mean()
            took = median(seconds[each.name, target])
            wins = median(
                a / b
                for a, b in zip(seconds["exact", 1.0], seconds[each.name, target], strict=True)
            )
            row.append(f"{wins:.1f}: {mean:.3f}, {1e6 * took:.0f} us, knob {each.knobs[target]}")
            points.append((each.name, float(mean), 1.0 / took))
            if each.name in OURS:
                check(mean > target - 0.02, f"{each.name} at {target}: recall {mean:.3f}")
        rows.append(row)
    shape = f"{len(trial.items):,} x {trial.items.shape[1]}"
    title = f"{name}, {shape}: exact search {1e6 * exact:.0f} us a query ({trial.reason})"
    headers = ["index", "build, s", "build, exact queries", *(f"times at {t}" for t in TARGETS)]
    show(title, headers, rows)
    return points


# --- the promise ----------------------------------------------------------------------------------


def promise(algorithm: str, n_items: int, n_queries: int) -> None:
    """Calibrate on held-out items, judge on other queries, print all cells."""
    rows, kept, cells = [], 0, 0
    for name, make in PROMISE.items():
        data = np.ascontiguousarray(make(n_items + n_queries), np.float32)
        items, queries = data[:-n_queries], data[-n_queries:]
        index = class_for(algorithm, EUCLIDEAN).build(items, IndexSpec(EUCLIDEAN, algorithm))
        assert isinstance(index, ApproximateIndex)
        exact: NeighborIndex = index.exact_index
        for k in (1, 10, 100):
            truth = exact.kneighbors(queries, k).distances
            row: list[object] = [name, k]
            for target in (0.8, 0.9, 0.95, 0.99):
                curve = measure(index, held_out_positions(len(items)), k, target=target)
                chosen = curve.reaching(target)
                found = index.with_knob(chosen.knob).kneighbors(queries, k).distances
                mean = recall(found, truth).mean()
                good = mean >= target - (chosen.mean - chosen.low)
                kept, cells = kept + bool(good), cells + 1
                row.append(f"{mean:.3f} (knob {chosen.knob}){'' if good else ' MISSED'}")
            rows.append(row)
    headers = ["data", "k", *(f"target {target}" for target in (0.8, 0.9, 0.95, 0.99))]
    show(f"{algorithm}: recall on other queries, {n_items:,} items", headers, rows)
    print(f"\n{kept} of {cells} cells reach the target less the interval")
    check(kept >= 0.95 * cells, f"{algorithm} keeps its promise")


def main() -> None:
    """Run the benchmark."""
    names = [*OURS, *BARE]
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--part", nargs="*", choices=["curves", "promise", "spark"])
    parser.add_argument("--data", nargs="*", choices=list(DATA), default=list(DATA))
    parser.add_argument("--only", nargs="*", choices=names, default=names)
    parser.add_argument("--million", action="store_true", help="also a million items")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--queries", type=int, default=2048)
    parser.add_argument("--algorithm", default="ivf", help="that keeps the promise")
    parser.add_argument("--algorithms", nargs="*", default=["ivf"], help="on Spark")
    parser.add_argument("--items", type=int, default=20_000, help="of the promise")
    parser.add_argument("--plot", type=Path, help="write a plot of the curves to this file")
    arguments = parser.parse_args()
    parts = arguments.part or ["curves", "promise"]
    points: dict[str, list[Any]] = {}
    if "curves" in parts:
        data = {name: DATA[name] for name in arguments.data}
        if arguments.million:
            data["clusters, a million"] = ("numpy", lambda extra: clusters(1_000_000 + extra, 96))
        for name, (package, make) in data.items():
            if not importlib.util.find_spec(package):
                print(f"{name}: {package} is not installed")
                continue
            rows = make(2 * arguments.queries)
            points[name] = curves(name, rows, arguments.only, arguments.queries, arguments.rounds)
    if "promise" in parts:
        promise(arguments.algorithm, arguments.items, arguments.queries)
    if "spark" in parts:
        from _approximate_spark import on_spark

        on_spark(arguments.data, arguments.algorithms, arguments.rounds)
    if arguments.plot:
        plot(points, arguments.plot)


def plot(points: dict[str, list[Any]], path: Path) -> None:
    """Draw recall against queries per second, a panel for each data set."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(points), figsize=(4 * len(points), 4), squeeze=False)
    for axis, (name, found) in zip(axes[0], points.items(), strict=True):
        for each in dict.fromkeys(point[0] for point in found):
            places = [(point[1], point[2]) for point in found if point[0] == each]
            style = "--" if each in BARE else "-"
            axis.plot(*zip(*places, strict=True), style, marker="o", label=each)
        axis.set_title(name)
        axis.set_yscale("log")
        axis.set_xlabel("recall")
    axes[0][0].set_ylabel("queries per second, one thread")
    axes[0][-1].legend()
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    with threadpool_limits(limits=1):
        main()
