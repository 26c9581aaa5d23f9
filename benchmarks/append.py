"""Time append of new items, and remove, against a fit of all items.

    python benchmarks/append.py [--rows 2000000] [--dim 64] [--share 0.01] [--rounds 3]
                                [--only replicated,hash,kmeans] [--ids growing,random] [--arrays]

The vectors are MLlib's, or arrays of float with --arrays, which a fit reads faster.

Ids are numbers, and those of the new items come after all others (growing), or they are random
strings of 32 letters. All contestants take turns, so that other work on the machine slows all of
them equally. The answers of 300 queries are compared.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from _harness import check, median, ratio, show, start, take_turns, vectors
from pyspark.ml.functions import array_to_vector
from pyspark.sql import functions as F

from pyspark_knn import KNNEstimator

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

PLACEMENTS: dict[str, dict[str, Any]] = {
    "replicated": {"placement": "replicated"},
    "hash": {"placement": "sharded"},
    "kmeans": {"placement": "sharded", "shardBy": "kmeans"},
}
IDS = {"growing": "id", "random": "md5(cast(id as string))"}
QUERIES = 300


def answers(model: Any, queries: DataFrame) -> list[Any]:
    """Return the neighbors of the queries and their distances."""
    return sorted(tuple(row) for row in model.transform(queries).drop("features").collect())


def parts_of(items: DataFrame, ids: str, options: argparse.Namespace) -> list[DataFrame]:
    """Return the old items and the new ones, persisted."""
    kind = F.col("features") if options.arrays else array_to_vector("features").alias("features")
    is_new = F.col("id") >= round(options.rows * (1 - options.share))
    named = F.expr(IDS[ids]).alias("id")
    parts = [items.where(each).select(named, kind).persist() for each in (~is_new, is_new)]
    for each in parts:
        each.count()
    return parts


def compare(
    name: str, old: DataFrame, new: DataFrame, queries: DataFrame, rounds: int
) -> list[str]:
    """Time all contestants in a placement, and return cells of the table."""
    union = old.union(new)
    removed = [row.id for row in new.select("id").collect()]
    knn = KNNEstimator(k=10, idCol="id", **PLACEMENTS[name])
    first = knn.fit(old)
    whole = knn.fit(union)
    contestants = {
        "append": lambda: first.append(new),
        "remove": lambda: whole.remove(removed),
        "fit": lambda: knn.fit(union),
    }
    seconds, models = take_turns(contestants, rounds)
    wanted = answers(models["fit"], queries)
    check(answers(models["append"], queries) == wanted, f"append, {name}")
    check(answers(models["remove"], queries) == answers(first, queries), f"remove, {name}")
    times = [f"{median(seconds[each]):.2f}" for each in ("fit", "append", "remove")]
    ratios = [f"{ratio(seconds['fit'], seconds[each]):.1f} x" for each in ("append", "remove")]
    shards = str(models["append"].getNumShards() or "")
    for model in (first, whole, *models.values()):
        model.unpersist()
    return [shards, *times, *ratios]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(PLACEMENTS))
    parser.add_argument("--ids", default=",".join(IDS))
    parser.add_argument("--arrays", action="store_true", help="arrays instead of MLlib vectors")
    options = parser.parse_args()
    spark = start(spark__driver__memory="8g")
    items = vectors(spark, options.rows, options.dim)
    queries = vectors(spark, QUERIES, options.dim, seed=1, partitions=2)
    rows = []
    for ids in options.ids.split(","):
        old, new = parts_of(items, ids, options)
        for name in options.only.split(","):
            rows.append([name, ids, *compare(name, old, new, queries, options.rounds)])
            print(*rows[-1], flush=True)
        for each in (old, new):
            each.unpersist()
    show(
        f"{options.share:.1%} of {options.rows:,} x {options.dim} items appended and removed, "
        f"{'arrays' if options.arrays else 'MLlib vectors'}, local[2], seconds (median)",
        [
            "placement",
            "ids",
            "shards",
            "fit of all",
            "append",
            "remove",
            "fit / append",
            "fit / remove",
        ],
        rows,
    )
    spark.stop()


if __name__ == "__main__":
    main()
