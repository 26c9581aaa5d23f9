"""Ids beyond those of a shard: `append` and `remove` do not read it, duplicates are counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pyspark.sql import functions as F

from pyspark_knn import KNNEstimator
from pyspark_knn.engine.shards import appending, jobs
from tests.support.frames import answers

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

OLD, NEW = 60, 20
PLACEMENTS: dict[str, dict[str, Any]] = {
    "hash": {"numShards": 3},
    "kmeans": {"numShards": 2, "shardBy": "kmeans"},
    "keys": {"numShards": 3, "keyCols": "key"},
}
TYPES = {"long": True, "string": True, "date": True, "decimal(20,0)": False}
"""The types of ids, and whether the range of a shard is known."""
WAYS = ("at once", "fetched", "join")

pytestmark = pytest.mark.filterwarnings("ignore:idCol.*:UserWarning")


@pytest.fixture(scope="module")
def rows(spark: SparkSession) -> DataFrame:
    vectors = np.random.default_rng(6).integers(-2, 3, (OLD + NEW, 3)).astype(float)
    cells = [(n, vector, n % 4) for n, vector in enumerate(vectors.tolist())]
    frame = spark.createDataFrame(cells, "n int, features array<double>, key int").persist()
    frame.count()
    return frame


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Callable[[], set[int]]:
    """Return which shards' ids were read since the last call."""
    seen: set[int] = set()
    heads = jobs._heads

    def noted(sources: Any) -> DataFrame:
        seen.update(shard.shard for each in sources for shard in each.shards)
        return heads(sources)

    def taken() -> set[int]:
        found = set(seen)
        seen.clear()
        return found

    monkeypatch.setattr(jobs, "_heads", noted)
    return taken


def take(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `append` take one of `WAYS`."""
    if way != "at once":
        monkeypatch.setattr(appending, "_FEW_BYTES", -1)
    if way == "join":
        monkeypatch.setattr(jobs, "_FETCHED_IDS", 0)


def with_ids(rows: DataFrame, number: str, kind: str) -> DataFrame:
    """Return the rows with ids of a type, in the order of numbers below 8000."""
    many = F.expr(f"cast({number} as int) + 1000")
    ids = F.date_add(F.lit("1965-01-01"), many) if kind == "date" else many.cast(kind)
    return rows.withColumn("id", ids)


def numbers_of(model: Any, source: int) -> set[int]:
    return {each.shard for each in model._index._sources[source].shards}


def check(model: Any, items: DataFrame, knn: KNNEstimator, queries: DataFrame) -> None:
    """Compare a model with a fit of its items."""
    found, wanted = (each.transform(queries) for each in (model, knn.fit(items)))
    assert answers(found, key="n") == answers(wanted, key="n")
    distinct = items.select("id").distinct().count()
    assert model._summary.numDuplicates == items.count() - distinct


@pytest.mark.parametrize(
    ("placement", "kind"),
    [*(("hash", kind) for kind in TYPES), ("kmeans", "long"), ("keys", "string")],
)
def test_growing_ids(
    rows: DataFrame, placement: str, kind: str, read: Callable[[], set[int]]
) -> None:
    items = with_ids(rows, "n", kind)
    knn = KNNEstimator(k=5, idCol="id", placement="sharded", **PLACEMENTS[placement])
    first = knn.fit(items.where(F.col("n") < OLD))
    read()
    both = first.append(items.where(F.col("n") >= OLD))
    fitted, appended = (numbers_of(both, each) for each in (0, 1))
    assert read() == (set() if TYPES[kind] else fitted)
    check(both, items, knn, rows)
    # The last night's items are removed.
    read()
    gone = items.where(F.col("n") >= OLD + 5).select("id")
    rest = both.remove(gone)
    found = read()
    assert found & appended
    assert found & fitted == (set() if TYPES[kind] else fitted)
    check(rest, items.where(F.col("n") < OLD + 5), knn, rows)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["long", "string"])
def test_ids_that_touch_those_of_the_last_append(
    rows: DataFrame,
    kind: str,
    way: str,
    read: Callable[[], set[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    take(way, monkeypatch)
    items = with_ids(rows, "n", kind)
    knn = KNNEstimator(k=5, idCol="id", placement="sharded", numShards=3)
    new = F.col("n") >= OLD
    both = knn.fit(items.where(~new)).append(items.where(new))
    assert not read() & numbers_of(both, 0)
    # The smallest of these ids is the largest one before, and three items have it.
    more = with_ids(rows.where(new), f"greatest({OLD + NEW - 1}, n + {NEW - 3})", kind)
    third = both.append(more)
    assert not read() & numbers_of(both, 0)
    assert third._summary.numDuplicates == 3
    check(third, items.union(more), knn, rows)
    # Ids below, and ids that are spread over all.
    for number, duplicates in {"n - 500": 3, "5 * n - 250": 3 + 10}.items():
        given = with_ids(rows.where(new), number, kind)
        fourth = third.append(given)
        assert fourth._summary.numDuplicates == duplicates
        assert (numbers_of(third, 0) <= read()) == (duplicates > 3)
    check(fourth, items.union(more).union(given), knn, rows)


def test_ids_that_no_shard_may_have_are_removed_without_a_job(
    rows: DataFrame, read: Callable[[], set[int]]
) -> None:
    items = with_ids(rows, "n", "long")
    model = KNNEstimator(k=5, idCol="id", placement="sharded", numShards=3).fit(items)
    read()
    for ids in ([], [-1], [2**60]):
        assert model.remove(ids).numItems == OLD + NEW
    assert read() == set()
    assert model.remove([-1, 1007, 2**60]).numItems == OLD + NEW - 1
