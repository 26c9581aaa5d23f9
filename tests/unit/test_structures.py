"""The structure of an approximate index as rows of a saved model, and damaged rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pyspark_knn.engine.search import structures
from pyspark_knn.engine.search.structures import digest_of, read_structure, structure_rows

ARRAYS = hnp.arrays(
    st.sampled_from([np.float32, np.float64, np.int32, np.int64, np.uint8, np.bool_]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=7),
)


def rows_of(arrays: dict[str, Any]) -> list[dict[str, Any]]:
    return [batch.to_pylist()[0] for batch in structure_rows(arrays, "items")]


@settings(deadline=None)
@given(arrays=st.dictionaries(st.text(max_size=4), ARRAYS, max_size=4), seed=st.integers(0, 99))
def test_a_round_trip_in_any_order(arrays: dict[str, Any], seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(structures, "PART_BYTES", 24)
        rows = rows_of(arrays)
    np.random.default_rng(seed).shuffle(rows)
    found = read_structure(rows)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


def damaged(**cells: Any) -> list[dict[str, Any]]:
    rows = rows_of({"links": np.arange(6, dtype=np.int32).reshape(2, 3)})
    return [{**rows[0], **cells}]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (damaged(name=None), "a row lacks its name"),
        (damaged(part=None), "a row lacks its name, its part or its bytes"),
        (damaged(bytes=None), "a row lacks its name, its part or its bytes"),
        (damaged(part=1), "array 'links' lacks a part"),
        (damaged() * 2, "array 'links' has part 0 twice"),
        (damaged(dtype="|O"), "array 'links' has an unknown type or shape"),
        (damaged(dtype=None), "array 'links' has an unknown type or shape"),
        (damaged(shape=None), "array 'links' has an unknown type or shape"),
        (damaged(shape=[2, None]), "array 'links' has an unknown type or shape"),
        (damaged(shape=[-2, -3]), "array 'links' has an unknown type or shape"),
        (damaged(shape=[1, 1, 1, 2, 3]), "array 'links' has an unknown type or shape"),
        (damaged(shape=[2**47, 2**47]), "array 'links' has 24 bytes instead of "),
        (damaged(shape=[2, 2]), "array 'links' has 24 bytes instead of 16"),
        (damaged(bytes=b"\0" * 24), "array 'links' differs from what was saved"),
        (damaged(digest=None), "array 'links' differs from what was saved"),
        (damaged(bytes=b"\0", digest=digest_of(b"\0")), "array 'links' has 1 bytes instead of 24"),
    ],
)
def test_damaged_rows_name_the_array(rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_structure(rows)
