"""What holds for every class of approximate index, however good its candidates are."""

from __future__ import annotations

import pickle
import sys
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyspark_knn.index.approximate.base import ApproximateIndex
from pyspark_knn.index.approximate.libraries import LIBRARIES, _loaded, is_installed, load_library
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.distances import Metric, resolve_metric
from pyspark_knn.index.found import Exclusion
from pyspark_knn.index.recall import recall
from pyspark_knn.index.registry import entries
from tests.support.approximate_contract import check_contract
from tests.support.strategies import METRIC_CASES, searches

CLASSES = [found for entry in entries() if not (found := entry.load()).exact]
EUCLIDEAN = resolve_metric("euclidean")
SERVED = [name for name, make in METRIC_CASES.items() if CLASSES[0].supports(make(3))]


@pytest.fixture(scope="module", params=CLASSES, ids=lambda found: found.algorithm)
def kind(request) -> type[ApproximateIndex]:
    if not is_installed(request.param.library):
        pytest.skip(f"{request.param.library} is not installed")
    return request.param


def built(kind, items, metric=EUCLIDEAN, **options) -> ApproximateIndex:
    return kind.build(items, IndexSpec(metric, kind.algorithm, **options))


def thorough(index: ApproximateIndex) -> ApproximateIndex:
    return index.with_knob(index.knob_levels()[-1])


def normal(count: int, dim: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dim))


@given(data=st.data())
@pytest.mark.parametrize("metric", SERVED)
def test_whatever_is_found_has_its_distance_and_its_place(kind, metric, data):
    search = data.draw(searches(metric))
    index = built(kind, search.items, search.metric)
    for each in (index.with_knob(1), thorough(index)):
        check_contract(each, search)


@pytest.mark.parametrize("metric", SERVED)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_thorough_search_finds_nearly_all(kind, metric, dtype):
    items, queries = normal(1500).astype(dtype), normal(40, seed=1).astype(dtype)
    items[:3] = 0
    index = thorough(built(kind, items, METRIC_CASES[metric](8)))
    exact = index.exact_index.kneighbors(queries, 10)
    assert recall(index.kneighbors(queries, 10).distances, exact.distances).mean() > 0.97


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "correlation", "inner_product"])
@pytest.mark.parametrize(
    ("offset", "size"), [(1e4, 1.0), (0.0, 1e200), (0.0, 1e-200), (1e30, 1e27), (0.0, 1e-30)]
)
def test_offsets_and_magnitudes_cost_no_recall(kind, metric, offset, size):
    items, queries = offset + size * normal(1500), offset + size * normal(40, seed=1)
    index = thorough(built(kind, items, resolve_metric(metric)))
    exact = index.exact_index.kneighbors(queries, 10)
    assert recall(index.kneighbors(queries, 10).distances, exact.distances).mean() > 0.97


def test_one_huge_item_does_not_spoil_the_others(kind):
    items, queries = normal(1500), normal(40, seed=1)
    items[700] = 1e250
    queries[3] = 1e250
    index = thorough(built(kind, items))
    exact = index.exact_index.kneighbors(queries, 10)
    found = index.kneighbors(queries, 10)
    assert recall(found.distances, exact.distances).mean() > 0.97
    assert found.positions[3].tolist() == exact.positions[3].tolist()


@pytest.mark.parametrize("far", [1e2, 1e4, 1e6, 1e9, 1e300])
def test_queries_far_beyond_the_items(kind, far):
    items, queries = normal(1500), far * normal(40, seed=1)
    index = thorough(built(kind, items))
    exact = index.exact_index.kneighbors(queries, 10)
    assert recall(index.kneighbors(queries, 10).distances, exact.distances).mean() > 0.9


def test_zero_vectors_by_cosine(kind):
    items, queries = normal(1500), normal(40, seed=1)
    items[100:500] = 0.0
    queries[7] = 0.0
    index = thorough(built(kind, items, resolve_metric("cosine")))
    found, exact = index.kneighbors(queries, 10), index.exact_index.kneighbors(queries, 10)
    assert recall(found.distances, exact.distances).mean() > 0.97
    # All items are at distance 1 from a zero vector, so it gets the first ones.
    assert found.positions[7].tolist() == list(range(10))


@pytest.mark.parametrize("distinct", [1, 20])
def test_mass_duplicates(kind, distinct):
    rows = normal(distinct)[np.random.default_rng(1).integers(0, distinct, 1500)]
    index = built(kind, rows)
    found, exact = index.kneighbors(rows[:30], 10), index.exact_index.kneighbors(rows[:30], 10)
    assert (found.positions >= 0).all()
    assert recall(thorough(index).kneighbors(rows[:30], 10).distances, exact.distances).min() == 1


def test_a_point_a_thousand_times_among_others(kind):
    rows = normal(2000)
    rows[::2] = rows[0]
    index = thorough(built(kind, rows))
    found, exact = index.kneighbors(rows[:40], 10), index.exact_index.kneighbors(rows[:40], 10)
    assert recall(found.distances, exact.distances).mean() > 0.97


@pytest.mark.parametrize("count", [1, 2, 39, 90, 200])
def test_few_items_are_searched_exactly(kind, count):
    items, queries = normal(count), normal(9, seed=1)
    index = built(kind, items)
    for k in {1, min(count, 50), count}:
        found, exact = index.kneighbors(queries, k), index.exact_index.kneighbors(queries, k)
        if 4 * (k + index.spare(k)) > count:
            assert found.positions.tolist() == exact.positions.tolist()
        assert (found.positions >= 0).all()


def test_excluded_items_do_not_count(kind):
    items = normal(3000)
    queries = items[:20]
    index = built(kind, items)
    nearest = index.exact_index.kneighbors(queries, 300).positions
    rows = np.repeat(np.arange(20), 300)
    order = np.argsort(nearest.ravel(), kind="stable")
    # All of the 300 nearest, of the first ten queries also nearly everything else.
    pairs = [(row, int(at)) for row, at in zip(rows[order], nearest.ravel()[order], strict=True)]
    pairs += [(row, at) for row in range(10) for at in range(0, 3000) if at % 500]
    pairs.sort(key=lambda pair: pair[1])
    exclude = Exclusion(*(np.array(part, np.int64) for part in zip(*pairs, strict=True)))
    found = index.kneighbors(queries, 10, exclude=exclude)
    exact = index.exact_index.kneighbors(queries, 10, exclude=exclude)
    assert ((found.positions >= 0) == (exact.positions >= 0)).all()
    assert (found.positions[:10] == exact.positions[:10]).all()
    assert not set(map(tuple, pairs)) & {
        (row, int(at)) for row in range(20) for at in found.positions[row]
    }


def test_the_answer_does_not_depend_on_the_batch(kind):
    items, queries = normal(4000).round(1), normal(300, seed=1).round(1)
    index = built(kind, items)
    whole = index.kneighbors(queries, 10)
    for start, size in ((0, 1), (3, 7), (40, 25), (100, 200)):
        part = index.kneighbors(np.ascontiguousarray(queries[start : start + size]), 10)
        assert (part.positions == whole.positions[start : start + size]).all()
        assert (part.distances == whole.distances[start : start + size]).all()
    assert index.kneighbors(queries[:0], 10).positions.shape == (0, 10)


def test_a_radius_is_always_exact(kind):
    items = normal(2000)
    index = built(kind, items).with_knob(1)
    found, exact = (each.within(items[:30], 1.5) for each in (index, index.exact_index))
    assert found.positions.tolist() == exact.positions.tolist()
    assert index.within(items[:30], 3.0, most=5) is None


def test_max_distance_cuts_the_answer(kind):
    items = normal(2000)
    index = thorough(built(kind, items))
    found = index.kneighbors(items[:30], 10)
    limit = float(np.median(found.distances))
    cut = index.kneighbors(items[:30], 10, max_distance=limit)
    assert (cut.positions == np.where(found.distances <= limit, found.positions, -1)).all()


def test_the_same_items_give_the_same_structure(kind):
    items = normal(3000)
    one, two = (built(kind, items, seed=5).structure() for _ in range(2))
    assert one.keys() == two.keys()
    assert all(one[name].tobytes() == two[name].tobytes() for name in one)
    other = built(kind, items, seed=6).structure()
    assert not one or any(one[name].tobytes() != other[name].tobytes() for name in one)


def test_copies_with_another_knob_share_the_structure(kind):
    index = built(kind, normal(3000), search_params={kind.search_name: 3})
    assert index.knob == 3
    other = index.with_knob(7)
    assert (index.knob, other.knob) == (3, 7)
    assert other.exact_index is index.exact_index
    assert other.metric is index.metric
    ladder = index.knob_levels()
    assert ladder == sorted(set(ladder))
    assert ladder[0] >= 1


def test_pickling_keeps_no_handles_and_no_exact_index(kind):
    index = built(kind, normal(3000))
    size = len(pickle.dumps(index, protocol=5))
    answer = index.kneighbors(normal(20, seed=1), 5)
    assert index.exact_index is not None
    sent = pickle.dumps(index, protocol=5)
    assert len(sent) == size
    again = pickle.loads(sent).kneighbors(normal(20, seed=1), 5)
    assert again.positions.tolist() == answer.positions.tolist()


def test_an_index_over_another_matrix(kind):
    items = normal(3000)
    index = built(kind, items)
    moved = index.over(np.zeros_like(items)).over(items.copy())
    found = moved.kneighbors(items[:9], 5)
    assert found.positions.tolist() == index.kneighbors(items[:9], 5).positions.tolist()


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "inner_product"])
def test_a_structure_is_restored(kind, metric):
    items, queries = normal(3000), normal(40, seed=1)
    index = built(kind, items, resolve_metric(metric))
    structure = index.structure()
    assert all(isinstance(part, np.ndarray) for part in structure.values())
    again = kind.restored(items, index.spec, structure)
    found, expected = again.kneighbors(queries, 10), index.kneighbors(queries, 10)
    assert found.positions.tolist() == expected.positions.tolist()
    assert {name: each.tobytes() for name, each in again.structure().items()} == {
        name: each.tobytes() for name, each in structure.items()
    }


@given(data=st.data())
def test_a_damaged_structure_is_refused_by_name(kind, data):
    items = normal(1600)
    index = built(kind, items)
    structure = dict(index.structure())
    if not structure:
        return  # built again when a model is loaded
    name = data.draw(st.sampled_from(sorted(structure)))
    part = structure[name]
    damage = data.draw(
        st.sampled_from(["missing", "unknown", "dtype", "axes", "shorter", "longer", "value"])
    )
    if damage == "missing":
        del structure[name]
    elif damage == "unknown":
        name = "more"
        structure[name] = part
    elif damage == "dtype":
        structure[name] = part.astype(np.complex64)
    elif damage == "axes":
        structure[name] = part[None]
    elif damage == "value":
        flat = part.ravel().copy()
        wrong = np.nan if part.dtype.kind == "f" else np.iinfo(part.dtype).max
        flat[data.draw(st.integers(0, flat.size - 1))] = wrong
        structure[name] = flat.reshape(part.shape)
    else:
        rows = np.arange(len(part) + (1 if damage == "longer" else -1)) % len(part)
        structure[name] = part[rows]
        if len(structure[name]) == 0 or name == "centroids":
            return  # another centroid, or one without items, is as good as the others
    with pytest.raises(ValueError, match="saved index is damaged") as error:
        kind.restored(items, index.spec, structure)
    assert name in str(error.value) or damage in ("shorter", "longer")


def test_items_are_added_without_a_new_structure(kind):
    items, queries = normal(3000), normal(60, seed=1)
    old = np.sort(np.random.default_rng(3).permutation(3000)[:2400])
    index = built(kind, np.ascontiguousarray(items[old])).with_knob(9)
    more = index.extended(items, old)
    assert more.knob == 9
    assert more.matrix is items
    exact = more.exact_index.kneighbors(queries, 10)
    found = thorough(more).kneighbors(queries, 10)
    assert recall(found.distances, exact.distances).mean() > 0.97
    assert set(found.positions.ravel().tolist()) - set(old.tolist())
    # Once more, and from a pickle, as a model that was loaded is.
    again = pickle.loads(pickle.dumps(more, protocol=5))
    same = again.extended(items, np.arange(3000))
    found = thorough(same).kneighbors(queries, 10)
    assert recall(found.distances, exact.distances).mean() > 0.97


def test_a_held_out_item_is_not_flattered(kind):
    items = normal(3000)
    positions = np.arange(0, 3000, 3)
    index = built(kind, items).held_out(positions)
    assert index.matrix is items
    exclude = Exclusion(np.arange(len(positions)), positions)
    found = index.kneighbors(items[positions], 10, exclude=exclude)
    assert not (found.positions == positions[:, None]).any()
    assert (found.positions >= 0).all()


@pytest.mark.parametrize("name", ["cityblock", "chebyshev", "hamming", "haversine", "jaccard"])
def test_metrics_that_are_not_served(kind, name):
    assert not kind.supports(Metric(name))
    assert not kind.supports(resolve_metric("minkowski", 3.0))


def hide(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    """Let Python find the library no more."""
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(_loaded, library, raising=False)


def test_a_library_that_cannot_be_imported_says_why(monkeypatch):
    hide(monkeypatch, "faiss")
    found = ModuleNotFoundError("No module named 'numpy._core'", name="numpy._core")
    monkeypatch.setattr("importlib.import_module", mock.Mock(side_effect=found))
    with pytest.raises(ImportError, match=r"cannot be imported \(No module named 'numpy._core'\)"):
        load_library("faiss")


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_missing_library_is_an_error_that_names_the_extra(name, monkeypatch):
    hide(monkeypatch, name)
    message = rf"{name}.* is not installed. Install it with pip install 'pyspark_knn\[{name}\]'"
    with pytest.raises(ImportError, match=message):
        load_library(name)
    with pytest.raises(ImportError, match=r"which built the index with version 9\.9"):
        load_library(name, "9.9")
    assert not is_installed(name)


def test_a_missing_library_in_a_worker(kind, monkeypatch):
    sent = pickle.dumps(built(kind, normal(3000)))
    hide(monkeypatch, kind.library)
    index = pickle.loads(sent)
    assert index.exact_index.kneighbors(normal(2), 5).positions.shape == (2, 5)
    with pytest.raises(ImportError, match="is not installed, which built the index with version"):
        index.kneighbors(normal(2), 5)
    with pytest.raises(ImportError, match=rf"pip install 'pyspark_knn\[{kind.library}\]'"):
        built(kind, normal(3000))


def test_an_old_library_is_refused(kind, monkeypatch):
    library = LIBRARIES[kind.library]
    monkeypatch.setitem(LIBRARIES, kind.library, library._replace(least=(99, 1)))
    monkeypatch.delitem(_loaded, kind.library, raising=False)
    with pytest.raises(ImportError, match=r">=99\.1 is required, got version"):
        load_library(kind.library)
