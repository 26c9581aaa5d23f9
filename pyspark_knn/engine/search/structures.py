"""The structure of an approximate index as rows of a saved model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pyspark_knn.engine.ship.bundle import BundleRef, open_bundle
from pyspark_knn.engine.spark.arrow import one_row
from pyspark_knn.index.approximate.base import ApproximateIndex
from pyspark_knn.index.registry import class_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.base import IndexSpec

PART_BYTES = 8 << 20
"""The bytes of an array in one row, as the format of saved models says."""

STRUCTURE_SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("part", pa.int32()),
        ("dtype", pa.string()),
        ("shape", pa.list_(pa.int64())),
        ("items", pa.string()),
        ("digest", pa.string()),
        ("bytes", pa.binary()),
    ]
)
"""A row for each part of an array: its name, the number of the part, from 0, the type of its
numbers and its shape, the digest of the vectors of the items, that of the part, and its bytes."""

_DTYPES = frozenset({"<f4", "<f8", "<i4", "<i8", "|u1", "|b1", "|i1"})
"""The types of numbers that a structure may have."""

_MOST_DIMENSIONS = 4
"""More dimensions than any array of a structure has."""


def digest_of(data: Any) -> str:
    """Return the digest of the bytes of a buffer, such as a contiguous ndarray."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def digest_of_items(matrix: NDArray[np.floating]) -> str:
    """Return the digest of the vectors of all items, with their type and their shape."""
    digest = hashlib.blake2b(f"{matrix.dtype.str} {matrix.shape}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(matrix).data)
    return digest.hexdigest()


def write_structure(ref: BundleRef, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield the structure of an index, in a worker; the content of `batches` is ignored.

    Parameters
    ----------
    ref : BundleRef
        Where the index is.
    batches : iterator of pyarrow.RecordBatch
        Any batches, of one task.

    Yields
    ------
    pyarrow.RecordBatch
        Rows of `STRUCTURE_SCHEMA`.
    """
    for _ in batches:
        pass
    index = open_bundle(ref).index
    if isinstance(index, ApproximateIndex):
        yield from structure_rows(index.structure(), digest_of_items(index.matrix))


def structure_rows(structure: Mapping[str, NDArray[Any]], items: str) -> Iterator[pa.RecordBatch]:
    """Yield arrays as rows of `STRUCTURE_SCHEMA`.

    Parameters
    ----------
    structure : mapping of str to ndarray
        The arrays, by name.
    items : str
        The digest of the vectors of the items.
    """
    for name, array in structure.items():
        plain = np.asarray(array, order="C", dtype=array.dtype.newbyteorder("<"))
        content = plain.reshape(-1).view(np.uint8)
        cells = {"name": name, "dtype": plain.dtype.str, "shape": list(array.shape), "items": items}
        for part, start in enumerate(range(0, max(1, len(content)), PART_BYTES)):
            piece = content[start : start + PART_BYTES]
            own = {"part": part, "digest": digest_of(piece), "bytes": pa.py_buffer(piece)}
            yield one_row(STRUCTURE_SCHEMA, {**cells, **own})


def read_structure(rows: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[Any]]:
    """Return the arrays in rows of `STRUCTURE_SCHEMA`, which may be damaged.

    Parameters
    ----------
    rows : sequence of dict
        The rows, in any order.

    Returns
    -------
    dict of str to ndarray
        The arrays, by name.

    Raises
    ------
    ValueError
        If a part is missing or damaged. The message names the array.
    """
    parts: dict[str, dict[int, Mapping[str, Any]]] = {}
    for row in rows:
        if row["name"] is None or row["part"] is None or row["bytes"] is None:
            raise ValueError("a row lacks its name, its part or its bytes")
        if row["part"] in parts.setdefault(row["name"], {}):
            raise ValueError(f"array {row['name'][:80]!r} has part {row['part']} twice")
        parts[row["name"]][row["part"]] = row
    return {name: _array(name, found) for name, found in parts.items()}


def restored_index(
    matrix: NDArray[np.floating], spec: IndexSpec, rows: Sequence[Mapping[str, Any]]
) -> ApproximateIndex | None:
    """Return the index whose structure was saved.

    Parameters
    ----------
    matrix : ndarray of shape (n_items, n_features), dtype float32 or float64
        The vectors of the items.
    spec : IndexSpec
        How the index was built.
    rows : sequence of dict
        Rows of `STRUCTURE_SCHEMA`, which may be damaged.

    Returns
    -------
    ApproximateIndex or None
        The index; None if the structure is that of other items.

    Raises
    ------
    ValueError
        If the structure is damaged.
    """
    kind = class_for(spec.algorithm, spec.metric, spec.registered)
    if not rows or not issubclass(kind, ApproximateIndex):
        return None
    # Last, since it reads all vectors.
    if {row["items"] for row in rows} != {digest_of_items(matrix)}:
        return None
    return kind.restored(matrix, spec, read_structure(rows))


def worth_saving(index: object) -> bool:
    """Return whether a saved model contains the structure of an index."""
    return isinstance(index, ApproximateIndex) and index.worth_saving


def _array(name: str, parts: Mapping[int, Mapping[str, Any]]) -> NDArray[Any]:
    shown, first = repr(name[:80]), parts.get(0)
    if first is None or set(parts) != set(range(len(parts))):
        raise ValueError(f"array {shown} lacks a part")
    dtype, shape = first["dtype"], first["shape"]
    dims = shape if isinstance(shape, list) else [None]
    if dtype not in _DTYPES or len(dims) > _MOST_DIMENSIONS:
        raise ValueError(f"array {shown} has an unknown type or shape")
    if not all(isinstance(each, int) and 0 <= each < 2**48 for each in dims):
        raise ValueError(f"array {shown} has an unknown type or shape")
    pieces = [parts[i]["bytes"] for i in range(len(parts))]
    if any(digest_of(each) != parts[i]["digest"] for i, each in enumerate(pieces)):
        raise ValueError(f"array {shown} differs from what was saved")
    content = np.concatenate([np.frombuffer(each, np.uint8) for each in pieces])
    expected = np.dtype(dtype).itemsize
    for each in dims:
        expected *= each
    if len(content) != expected:
        raise ValueError(f"array {shown} has {len(content)} bytes instead of {expected}")
    array: NDArray[Any] = content.view(dtype).reshape(dims)
    return array
