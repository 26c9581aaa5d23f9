"""Time append of new items, and remove, against a fit of all items.

    python benchmarks/append.py [--rows 2000000] [--dim 64] [--share 0.01] [--rounds 3]
                                [--only replicated,hash,kmeans] [--arrays]

The vectors are MLlib's, or arrays of float with --arrays, which a fit reads faster.

The ids of the new items are spread evenly among those of the old ones. All contestants take turns,
so that other work on the machine slows all of them equally. The answers of 300 queries are
compared.
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
QUERIES = 300


def answers(model: Any, queries: DataFrame) -> list[Any]:
    """Return the neighbors of the queries and their distances."""
    return sorted(tuple(row) for row in model.transform(queries).drop("features").collect())


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
    parser.add_argument("--arrays", action="store_true", help="arrays instead of MLlib vectors")
    options = parser.parse_args()
    spark = start(spark__driver__memory="8g")
    items = vectors(spark, options.rows, options.dim)
    is_new = F.col("id") % round(1 / options.share) == 1
    kind = F.col("features") if options.arrays else array_to_vector("features").alias("features")
    parts = (items.where(each).select("id", kind) for each in (~is_new, is_new))
    old, new = (each.persist() for each in parts)
    added, _ = new.count(), old.count()
    items.unpersist()
    union = old.union(new)
    removed = [row.id for row in new.select("id").collect()]
    queries = vectors(spark, QUERIES, options.dim, seed=1, partitions=2)
    rows = []
    for name in options.only.split(","):
        knn = KNNEstimator(k=10, idCol="id", **PLACEMENTS[name])
        first = knn.fit(old)
        whole = knn.fit(union)
        contestants = {
            "append": lambda model=first: model.append(new),
            "remove": lambda model=whole: model.remove(removed),
            "fit": lambda estimator=knn: estimator.fit(union),
        }
        seconds, models = take_turns(contestants, options.rounds)
        wanted = answers(models["fit"], queries)
        check(answers(models["append"], queries) == wanted, f"append, {name}")
        check(answers(models["remove"], queries) == answers(first, queries), f"remove, {name}")
        times = [f"{median(seconds[each]):.2f}" for each in ("fit", "append", "remove")]
        ratios = [f"{ratio(seconds['fit'], seconds[each]):.1f} x" for each in ("append", "remove")]
        rows.append([name, str(models["append"].getNumShards() or ""), *times, *ratios])
        print(*rows[-1], flush=True)
        for model in (first, whole, *models.values()):
            model.unpersist()
    show(
        f"{added:,} of {options.rows:,} x {options.dim} items appended and removed, "
        f"{'arrays' if options.arrays else 'MLlib vectors'}, local[2], seconds (median)",
        ["placement", "shards", "fit of all", "append", "remove", "fit / append", "fit / remove"],
        rows,
    )
    spark.stop()


if __name__ == "__main__":
    main()
