"""Candidates among few items, by products with all of them at once."""

import numpy as np
import pytest

from pyspark_knn.index.block_search import BlockSearch
from pyspark_knn.index.distances import Metric, resolve_metric
from pyspark_knn.index.few_items import FewItems
from pyspark_knn.index.found import Exclusion
from pyspark_knn.index.pairwise import PairwiseSearch
from pyspark_knn.index.score_spaces import score_space


def candidates(items, queries, k, exclude=None, least=-np.inf):
    space = score_space(resolve_metric("euclidean"), items)
    transformed = space.queries(queries)
    floors = np.full(len(queries), least)
    slack = space.slack(transformed, np.float32)
    return FewItems(items, space).candidates(transformed, k, floors, slack, exclude)


@pytest.mark.parametrize("n_items", [40, 3000])
@pytest.mark.parametrize("outlier", [False, True])
def test_hardly_more_than_the_nearest_are_candidates(n_items, outlier):
    rng = np.random.default_rng(n_items)
    items, queries = rng.standard_normal((n_items, 8)), rng.standard_normal((500, 8))
    if outlier:
        items[7] = 1e3  # whose width is larger than all scores
    (rows, positions), crowded = candidates(items, queries, 5)
    assert not crowded.any()
    assert 5 * 500 <= len(rows) < 8 * 500
    nearest = PairwiseSearch(items, resolve_metric("euclidean")).kneighbors(queries, 5).positions
    pairs = set(zip(rows.tolist(), positions.tolist(), strict=True))
    assert {(row, int(each)) for row in range(500) for each in nearest[row]} <= pairs


def test_excluded_items_do_not_count():
    rng = np.random.default_rng(1)
    items = rng.standard_normal((1000, 4))
    queries = np.repeat(items[:1], 700, axis=0)  # in several groups
    order = np.argsort(((items - items[0]) ** 2).sum(axis=1))
    for row in (0, 650):
        exclude = Exclusion(np.full(50, row), np.sort(order[:50]))
        (rows, positions), _ = candidates(items, queries, 3, exclude)
        assert set(order[50:53]) <= set(positions[rows == row])
        assert not set(order[:50]) & set(positions[rows == row])
        assert set(order[:3]) <= set(positions[rows == row - 1 if row else rows == 1])


def test_queries_with_too_many_candidates_have_none_here():
    items = np.zeros((2000, 3))
    items[1000:] = np.random.default_rng(2).standard_normal((1000, 3)) + 5
    queries = np.concatenate([items[:1], items[1000:1003]])
    (rows, _), crowded = candidates(items, queries, 4)
    assert crowded.tolist() == [True, False, False, False]
    assert set(rows) == {1, 2, 3}


def test_a_limit_known_beforehand_rules_out_items():
    rng = np.random.default_rng(3)
    items, queries = rng.standard_normal((500, 4)), rng.standard_normal((9, 4))
    (rows, _), crowded = candidates(items, queries, 5, least=1e6)
    assert not rows.size
    assert not crowded.any()


def test_all_queries_are_ranked_at_once(monkeypatch):
    rng = np.random.default_rng(4)
    items, queries = rng.standard_normal((3000, 8)), rng.standard_normal((900, 8))
    metric = resolve_metric("euclidean")
    index = BlockSearch(items, metric, score_space(metric, items))
    compute, ranked = Metric.distances, []

    def counted(*arguments):
        ranked.append(len(arguments[-1]))
        return compute(*arguments)

    monkeypatch.setattr(Metric, "distances", counted)
    index.kneighbors(queries, 10)
    assert len(ranked) == 1
