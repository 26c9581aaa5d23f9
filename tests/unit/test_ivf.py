"""Inverted lists: how many, what they contain, which are searched, and how they are kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyspark_knn.engine.ship.bundle import map_file, read_bundle, write_bundle
from pyspark_knn.index.approximate.ivf import IVFSearch, default_nlist
from pyspark_knn.index.approximate.ivf_bounds import separated
from pyspark_knn.index.approximate.ivf_lists import _training_positions
from pyspark_knn.index.approximate.knobs import check_index_params, check_search_params, levels
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.distances import resolve_metric
from pyspark_knn.index.found import Exclusion
from pyspark_knn.index.recall import held_out_positions, recall

pytest.importorskip("faiss")

EUCLIDEAN = resolve_metric("euclidean")


def normal(count: int, dim: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dim))


def built(items: np.ndarray, metric: str = "euclidean", **params: object) -> IVFSearch:
    return IVFSearch.build(items, IndexSpec(resolve_metric(metric), "ivf", index_params=params))


def test_the_default_number_of_lists():
    found = [default_nlist(n) for n in (1, 39, 80, 4000, 25_600, 1_000_000)]
    assert found == [1, 1, 2, 100, 640, 4000]


@pytest.mark.parametrize("encoding", ["flat", "sq8"])
@pytest.mark.parametrize(("count", "nlist"), [(1, 1), (30, 30), (500, 499), (500, 1), (90, 4000)])
def test_few_items_for_a_list_are_no_reason_to_complain(count, nlist, encoding, capfd):
    items = normal(count)
    index = built(items, nlist=nlist, encoding=encoding)
    assert len(index.structure()["centroids"]) == min(count, nlist)
    assert (index.kneighbors(items, 1).positions[:, 0] == np.arange(count)).mean() > 0.9
    assert capfd.readouterr() == ("", "")


def test_equal_items_need_no_warning_either(capfd):
    index = built(np.ones((3000, 4)))
    assert index.kneighbors(np.ones((2, 4)), 3).positions.tolist() == [[0, 1, 2]] * 2
    assert capfd.readouterr() == ("", "")


def test_bytes_take_less_memory_and_cost_little_recall():
    items, queries = normal(4000, 32), normal(200, 32, seed=1)
    flat, sq8 = built(items), built(items, encoding="sq8")
    assert flat.added_bytes < 1.3 * 4 * items.size
    assert sq8.added_bytes < 0.6 * flat.added_bytes
    exact = flat.exact_index.kneighbors(queries, 10).distances
    found = sq8.with_knob(1000).kneighbors(queries, 10).distances
    assert recall(found, exact).mean() > 0.99


@given(data=st.data())
def test_which_lists_are_searched_is_decided_exactly(data):
    # On a lattice, many centroids are equally far, and float32 products cannot tell.
    dim = data.draw(st.integers(1, 3))
    size = data.draw(st.sampled_from([1.0, 1 / 3, 1e-3]))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    items = rng.integers(0, 5, (600, dim)) * size
    index = built(items, nlist=data.draw(st.sampled_from([5, 40, 120])))
    lists = index._opened()
    # Many queries are searched by products.
    count = data.draw(st.sampled_from([50, 150]))
    queries = index.space.queries(rng.integers(0, 5, (count, dim)) * size)
    nprobe = data.draw(st.integers(1, lists.lists.nlist))
    found = lists.centroids.nearest(queries, nprobe)[0]
    gaps = queries[:, None].astype(np.float64) - lists.centroids.vectors[None]
    expected = np.argsort(np.square(gaps).sum(2), axis=1, kind="stable")[:, :nprobe]
    assert (np.sort(found, axis=1) == np.sort(expected, axis=1)).all()


def test_lists_are_not_trained_on_the_items_that_measure_the_recall():
    for count, n_lists, size in ((20_000, 300, 9600), (5000, 125, 2952), (2100, 52, 1050)):
        drawn = _training_positions(count, n_lists, seed=3)
        assert len(set(drawn)) == size
        assert not set(drawn) & set(held_out_positions(count, 3))
    # Too few others.
    assert len(set(_training_positions(9, 9, 3))) == 9


def test_of_equal_items_those_of_the_smallest_positions_are_found():
    rows = normal(3000)
    rows[::3] = rows[0]
    index = built(rows)
    assert index.kneighbors(rows[:1], 10).positions[0].tolist() == list(range(0, 30, 3))


@pytest.mark.parametrize("metric", ["euclidean", "inner_product"])
def test_bytes_are_padded_to_what_faiss_compares_at_a_time(metric):
    items = normal(3000, 15)
    index = built(items, metric, encoding="sq8")
    assert index._opened().lists.d == 16
    again = IVFSearch.restored(items, index.spec, index.structure())
    assert again.space.n_coordinates == 16
    exact = index.exact_index.kneighbors(items[:40], 10).distances
    found = again.with_knob(999).kneighbors(items[:40], 10).distances
    assert recall(found, exact).mean() > 0.97


@pytest.mark.parametrize("encoding", ["flat", "sq8"])
def test_a_mapped_index_is_searched_without_a_copy(encoding, tmp_path):
    items = normal(3000)
    items.flags.writeable = False
    index = built(items, encoding=encoding)
    path = tmp_path / "bundle"
    with path.open("wb") as file:
        write_bundle(index, file, broadcast=False)
    opened = read_bundle(map_file(str(path)))
    assert not opened._file.flags.writeable
    codes = opened._opened().lists.invlists.get_codes(0)
    first = opened._file.__array_interface__["data"][0]
    assert first <= int(codes) < first + opened._file.nbytes
    found, expected = (each.kneighbors(items[:50], 5) for each in (opened, index))
    assert found.positions.tobytes() == expected.positions.tobytes()
    more = opened.extended(normal(3100), np.arange(3000))
    assert more.structure()["cells"][:3000].tolist() == index.structure()["cells"].tolist()


def test_restoring_needs_no_training_and_gives_the_same_bytes():
    items = normal(3000)
    for encoding in ("flat", "sq8"):
        index = built(items, encoding=encoding)
        again = IVFSearch.restored(items, index.spec, index.structure())
        assert again._file.tobytes() == index._file.tobytes()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("cells", lambda part: np.full_like(part, -1), "integers from 0 to 49, got -1 to -1"),
        ("cells", lambda part: part + np.int32(1), "'cells' must contain integers from 0 to 49"),
        ("cells", lambda part: part[:-1], r"'cells' must have shape \(2000,\), got \(1999,\)"),
        ("cells", lambda part: part.astype(np.int64), "'cells' must have dtype int32, got int64"),
        ("centroids", lambda part: part[:, :-1], r"'centroids' must have shape \('any', 16\)"),
        ("centroids", lambda part: part + np.float32(np.inf), "'centroids' contains NaN or inf"),
        ("centroids", lambda part: np.tile(part, (99, 1)), "'centroids' has 4950 rows for 2000"),
        ("centroids", lambda part: part[:0], "'centroids' must have shape"),
        ("ranges", lambda part: -part, "'ranges' has a negative width"),
        ("center", lambda part: part[:3], r"'center' must have shape \(8,\), got \(3,\)"),
        ("scale", lambda part: part + 0.5, "'scale' has exponent 0.5"),
        (
            "scale",
            lambda part: part + np.array([0, 1, 0]),
            "'scale' has norm 1.0, which metric 'euclidean'",
        ),
        ("scale", lambda part: part + np.array([5000, 0, 0]), "'scale' has exponent 5000.0"),
        ("scale", lambda part: part * np.array([1, 1, 0]), "'scale' has reach 0.0"),
        ("scale", lambda part: list(part), "'scale' must have dtype float64, got list"),
    ],
)
def test_what_is_said_of_a_damaged_structure(name, change, message):
    items = normal(2000)
    index = built(items, encoding="sq8")
    structure = index.structure()
    assert len(structure["centroids"]) == 50
    with pytest.raises(ValueError, match=f"saved index is damaged: .*{message}"):
        IVFSearch.restored(items, index.spec, {**structure, name: change(structure[name])})


def test_a_structure_of_another_encoding_is_refused():
    items = normal(2000, 16)
    flat, sq8 = built(items), built(items, encoding="sq8")
    with pytest.raises(ValueError, match="'ranges' is missing"):
        IVFSearch.restored(items, sq8.spec, flat.structure())
    with pytest.raises(ValueError, match="'ranges' is unknown"):
        IVFSearch.restored(items, flat.spec, sq8.structure())


def test_a_norm_that_the_metric_requires():
    items = normal(2000)
    index = built(items, "inner_product")
    structure = {**index.structure(), "scale": np.zeros(3)}
    with pytest.raises(ValueError, match=r"'scale' has norm 0\.0, which metric 'inner_product'"):
        IVFSearch.restored(items, index.spec, structure)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"nprobe": 3}, ValueError, r"'ivf' has no 'nprobe'. Supported: 'nlist', 'encoding'\."),
        ({"nlist": 0}, ValueError, r"indexParams\['nlist'\] must be >= 1, got 0"),
        ({"nlist": True}, TypeError, r"indexParams\['nlist'\] must be an integer, got True"),
        ({"nlist": 2.5}, TypeError, r"indexParams\['nlist'\] must be an integer, got 2.5"),
        ({"encoding": "pq"}, ValueError, r"'encoding'\] must be one of 'flat', 'sq8', got 'pq'"),
        ({"encoding": ["sq8"]}, ValueError, r"must be one of 'flat', 'sq8', got \['sq8'\]"),
    ],
)
def test_invalid_index_params(given, error, message):
    with pytest.raises(error, match=message):
        check_index_params("ivf", IVFSearch.index_names, given)


def test_invalid_search_params():
    check_search_params("ivf", "nprobe", {"nprobe": np.int64(4)})
    check_index_params("ivf", IVFSearch.index_names, {"nlist": np.int32(4), "encoding": "sq8"})
    with pytest.raises(ValueError, match=r"searchParams of algorithm 'ivf' has no 'efSearch'"):
        check_search_params("ivf", "nprobe", {"efSearch": 4})
    with pytest.raises(ValueError, match=r"searchParams\['nprobe'\] must be >= 1, got 0"):
        check_search_params("ivf", "nprobe", {"nprobe": 0})


def test_numpy_integers_are_integers():
    index = built(normal(2000), nlist=np.int32(7)).with_knob(np.int64(3))
    assert len(index.structure()["centroids"]) == 7
    assert type(index.knob) is int
    assert index.kneighbors(normal(3), 5).positions.shape == (3, 5)


def test_levels_of_a_knob():
    assert levels(1, 1) == [1]
    assert levels(1, 40) == [1, 2, 3, 4, 6, 8, 11, 16, 23, 33, 40]
    assert levels(16, 20) == [16, 20]


@pytest.mark.parametrize(("metric", "added"), [("inner_product", 5.0), ("cosine", 0.0)])
def test_added_items_that_the_coordinates_cannot_hold(metric, added):
    # The largest norm of all, and the first zero vector: both change the coordinates of others.
    items = normal(3000)
    items[::1000] *= added
    old = np.flatnonzero(np.arange(3000) % 1000)
    index = built(np.ascontiguousarray(items[old]), metric).extended(items, old).with_knob(999)
    found, exact = (each.kneighbors(normal(50, seed=1), 10) for each in (index, index.exact_index))
    assert recall(found.distances, exact.distances).mean() > 0.99
    plain = built(np.ascontiguousarray(items[old])).extended(items, old)
    assert (plain.structure()["centroids"] == built(items[old]).structure()["centroids"]).all()


def test_the_bound_of_squared_distances_is_right_and_tight():
    # In one dimension rounding keeps the order. In two, there is one order of the sum.
    items = -np.random.default_rng(4).uniform(0, 1e-2, (2_000_000, 2)).astype(np.float32)
    computed = np.square(np.float32(1) - items).sum(axis=1)
    true = np.square(1.0 - items.astype(np.float64)).sum(axis=1)
    error = (computed - true) / true * 2.0**24
    assert np.abs(error).max() < 4.001
    # Pairs that errors exchange: the nearer one is computed too large, the other one too small.
    large, small = np.flatnonzero(error > 2.4), np.flatnonzero(error < -2.4)
    large = large[np.argsort(true[large])]
    place = np.searchsorted(true[large], true[small], side="left") - 1
    small, large = small[place >= 0], large[place[place >= 0]]
    near, far = computed[small], computed[large]
    assert (true[small] >= true[large]).all()
    assert (near < far).any()
    assert not separated(near, far, 2).any()
    # With half of the bound, some of them would be certain, as they are with twice the gap.
    assert separated(near, far + (far - near), 2).any()


def test_candidates_are_certain_but_for_ties():
    rng = np.random.default_rng(2)
    items = rng.normal(size=(4000, 6)).astype(np.float32)
    items[1000:2000] = np.round(items[1000:2000])
    queries = rng.normal(size=(600, 6)).astype(np.float32)
    queries[300:] = items[1000:1300]
    index = IVFSearch.build(items, IndexSpec(EUCLIDEAN, "ivf")).with_knob(3)
    certain = np.zeros(len(queries), bool)
    more = index.candidates(queries, 60, 3)
    rows = np.repeat(np.arange(len(queries)), 60)
    distances = EUCLIDEAN.distances(queries, items, rows, more.ravel()).reshape(more.shape)
    best = np.take_along_axis(more, np.argsort(distances, axis=1)[:, :8], 1)
    for found in index.certain(queries, 8, index.spare(8), 3):
        certain[found.rows] = True
        np.testing.assert_array_equal(np.sort(found.positions), np.sort(best[found.rows]))
    assert certain[:300].mean() > 0.9
    assert not certain[300:].all()


def test_answers_do_not_depend_on_certainty(monkeypatch):
    items = np.random.default_rng(3).normal(size=(3000, 4)).round(1).astype(np.float32)
    queries = items[:700] + np.float32(0.05)
    index = IVFSearch.build(items, IndexSpec(EUCLIDEAN, "ivf")).with_knob(3)
    found = index.kneighbors(queries, 7)
    single = [index.kneighbors(each[None], 7) for each in queries[:50]]
    monkeypatch.setattr(IVFSearch, "certain", lambda *given: [])
    expected = index.kneighbors(queries, 7)
    np.testing.assert_array_equal(found.distances, expected.distances)
    np.testing.assert_array_equal(found.positions, expected.positions)
    np.testing.assert_array_equal(
        np.concatenate([each.positions for each in single]), found.positions[:50]
    )


def test_lists_are_exhausted_and_exclusions():
    items = np.random.default_rng(6).normal(size=(2000, 4)).astype(np.float32)
    index = IVFSearch.build(items, IndexSpec(EUCLIDEAN, "ivf")).with_knob(1)
    exclude = Exclusion(np.arange(100), np.arange(100))
    found = index.kneighbors(items[:100], 5, exclude=exclude)
    assert not (found.positions == np.arange(100)[:, None]).any()
    found = index.kneighbors(items[:100], 200)  # more than a list contains
    assert (found.positions >= 0).all()
