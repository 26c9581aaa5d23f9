"""Saved models whose Parquet files other tools have written again, loaded without Spark."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pyspark_knn import KNNModel

SAVED = Path(__file__).parents[1] / "saved" / "4.3.0" / "names"
QUERY = [0.5, 1.5, 1.0]
TYPES = {
    "ids in a dictionary": ("id", pa.dictionary(pa.int32(), pa.string())),
    "large ids": ("id", pa.large_string()),
    "vectors of fixed size": ("features", pa.list_(pa.float32(), len(QUERY))),
    "large lists": ("features", pa.large_list(pa.float32())),
}
"""Types that Arrow restores from the metadata of a file. For Spark, they are strings and arrays."""


@pytest.mark.parametrize("kind", TYPES)
def test_types_that_only_arrow_knows(tmp_path: Path, kind: str) -> None:
    path = Path(shutil.copytree(SAVED, tmp_path / "model"))
    (file,) = (path / "items").glob("part-*")
    rows = pq.read_table(file)
    name, wanted = TYPES[kind]
    at = rows.schema.get_field_index(name)
    if pa.types.is_dictionary(wanted):
        column = rows[name].dictionary_encode()
    else:
        column = pa.array(rows[name].to_pylist(), wanted)
    pq.write_table(rows.set_column(at, name, column), file)
    expected = KNNModel.loadWithoutSpark(str(SAVED)).kneighbors(QUERY)
    for ours, theirs in zip(
        KNNModel.loadWithoutSpark(str(path)).kneighbors(QUERY), expected, strict=True
    ):
        assert ours.tolist() == theirs.tolist()
