"""Old and new items in one order, and items without some of them: those of a fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import types as T

from pyspark_knn.engine.fit import merging
from pyspark_knn.engine.fit.counted import Gathered
from pyspark_knn.engine.fit.merging import merge_items, reordered, with_numbers, without_items
from pyspark_knn.engine.fit.source import ItemSource
from pyspark_knn.engine.rows.columns import Input
from pyspark_knn.engine.rows.features import Features
from pyspark_knn.engine.rows.items import Items
from pyspark_knn.engine.rows.keys import Groups
from pyspark_knn.index.sparse.rows import SparseRows

ID_TYPES = {"id": pa.int64(), "name": pa.string(), "raw": pa.binary(), "real": pa.float64()}


def source_of(names: list[str]) -> ItemSource:
    columns = {name: Input(None, T.LongType()) for name in names}  # type: ignore[arg-type]
    return ItemSource(
        features=Features({}, None, None),
        features_col="features",
        columns=columns,
        id_type=T.LongType() if "id" in names else None,
        key_types={"key0": T.LongType()} if "key0" in names else {},
    )


def fitted(rows: list[dict[str, Any]], source: ItemSource, types: dict[str, Any]) -> Gathered:
    """What a fit of these rows returns, by plain Python."""
    ordered = rows
    if source.id_type is not None:
        ordered = sorted(rows, key=lambda row: tuple(row[name] for name in source.sort_by))
    columns = {name: pa.array([row[name] for row in ordered], kind) for name, kind in types.items()}
    items = Items(len(rows), columns)
    matrix = np.array([row["vector"] for row in ordered])
    if not source.key_types:
        return Gathered(items, matrix)
    groups = Groups.of(items, ["key0"])
    return Gathered(items, matrix[groups.positions], groups)


def stored(gathered: Gathered, kind: str, dtype: Any = np.float64) -> Gathered:
    matrix = np.asarray(gathered.matrix).astype(dtype)
    return gathered._replace(matrix=SparseRows.from_dense(matrix) if kind == "sparse" else matrix)


def matrix_of(gathered: Gathered) -> Any:
    matrix = gathered.matrix
    return matrix if isinstance(matrix, np.ndarray) else matrix.dense()


def shown(gathered: Gathered) -> Any:
    dense, groups = matrix_of(gathered), gathered.groups
    columns = {name: each.to_pylist() for name, each in gathered.items.columns.items()}
    order = None if groups is None else (groups.positions.tolist(), groups.starts.tolist())
    return gathered.items.count, columns, dense.tolist(), str(dense.dtype), order


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**32 - 1),
    counts=st.tuples(st.integers(1, 30), st.integers(1, 15)),
    id_kind=st.sampled_from([*ID_TYPES, None]),
    label=st.booleans(),
    keyed=st.booleans(),
    storage=st.sampled_from(["dense", "sparse"]),
    dtypes=st.sampled_from([(np.float32, np.float64), (np.float64, np.float32)]),
)
def test_items_are_those_of_a_fit(
    seed: int,
    counts: tuple[int, int],
    id_kind: str | None,
    label: bool,
    keyed: bool,
    storage: str,
    dtypes: tuple[Any, Any],
) -> None:
    rng = np.random.default_rng(seed)
    convert: dict[str | None, Any] = {"name": str, "raw": lambda n: str(n).encode(), "real": float}
    types: dict[str, Any] = {} if id_kind is None else {"id": ID_TYPES[id_kind]}
    types |= {"label": pa.float64()} if label else {}
    types |= {"key0": pa.int64()} if keyed else {}
    source = source_of(list(types))

    def rows_of(count: int, first: int) -> list[dict[str, Any]]:
        return [
            {
                "id": convert.get(id_kind, int)(int(rng.integers(0, 20))),
                "label": float(rng.integers(0, 2)),
                "key0": int(rng.integers(0, 3)),
                # Unique, so that the order of equal items is seen.
                "vector": [float(first + i), float(rng.integers(0, 2))],
            }
            for i in range(count)
        ]

    old, new = rows_of(counts[0], 0), rows_of(counts[1], counts[0])
    parts = [
        stored(fitted(rows, source, types), storage, dtype)
        for rows, dtype in zip((old, new), dtypes, strict=True)
    ]
    both, places = merge_items(parts[0], parts[1], source)
    whole = stored(fitted(old + new, source, types), storage)
    assert shown(both) == shown(whole)
    assert matrix_of(both)[places].tolist() == matrix_of(parts[0]).tolist()
    assert keyed or (np.diff(places) > 0).all()
    positions = np.flatnonzero(rng.random(sum(counts)) < 0.4)[:-1]
    ordered = old + new
    if source.id_type is not None:
        ordered = sorted(ordered, key=lambda row: tuple(row[name] for name in source.sort_by))
    kept = [row for i, row in enumerate(ordered) if i not in set(positions.tolist())]
    rest = without_items(both, positions, list(source.key_types))
    assert shown(rest) == shown(stored(fitted(kept, source, types), storage))


@pytest.mark.parametrize("storage", ["dense", "sparse"])
@pytest.mark.parametrize("keyed", [False, True])
def test_one_order_whatever_the_order_of_the_rows(storage: str, keyed: bool) -> None:
    """With new columns of numbers, which come before the keys, equal ids are sorted by them."""
    rng = np.random.default_rng(3)
    rows = [
        {"id": int(i), "key0": int(i) % 2, "vector": rng.integers(-2, 3, 2).astype(float).tolist()}
        for i in rng.integers(0, 5, 40)
    ]
    source = source_of(["id", "key0"] if keyed else ["id"])
    types, keys = dict.fromkeys(source.columns, pa.int64()), list(source.key_types)
    one, other = (
        reordered(stored(fitted(each, source, types), storage), keys) for each in (rows, rows[::-1])
    )
    assert shown(one) == shown(other)
    # The number of an item is the sum of its vector, so the order shows which vector is whose.
    place = np.arange(40) if one.groups is None else np.argsort(one.groups.positions)
    vectors = np.array(shown(one)[2])[place]
    items = with_numbers(one.items, {"sum": vectors.sum(axis=1)}, keys)
    assert list(items.columns) == ["id", "sum", *keys]
    again = reordered(one._replace(items=items), keys)
    _, columns, matrix, _, order = shown(again)
    pairs = list(zip(columns["id"], columns["sum"], strict=True))
    assert pairs == sorted(pairs)
    positions = np.arange(40) if order is None else np.array(order[0])
    assert np.array(columns["sum"])[positions].tolist() == np.sum(matrix, axis=1).tolist()


def test_sparse_rows_are_copied_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "_PART_VALUES", 3)
    rows = [{"id": 2 * i, "vector": [1.0 + i, 0.0]} for i in range(9)]
    source, types = source_of(["id"]), {"id": pa.int64()}
    more = [{"id": 2 * i + 1, "vector": [0.0, 1.0 + i]} for i in range(4)]
    parts = [stored(fitted(each, source, types), "sparse") for each in (rows, more)]
    whole = stored(fitted(rows + more, source, types), "sparse")
    assert shown(merge_items(*parts, source)[0]) == shown(whole)
