"""The bundle of an index: aligned when mapped, never copied, refused if it is damaged."""

import io
import itertools
import mmap
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from pyspark_knn.engine.rows.items import Items
from pyspark_knn.engine.search.searchable import Searchable
from pyspark_knn.engine.ship import bundle
from pyspark_knn.engine.ship.bundle import (
    ArtifactRef,
    BroadcastRef,
    FileRef,
    map_file,
    open_bundle,
    read_bundle,
)
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.distances import resolve_metric
from pyspark_knn.index.pairwise import PairwiseSearch
from pyspark_knn.index.sklearn_index import BallTreeSearch, KDTreeSearch
from pyspark_knn.index.terms.search import TermSearch

INDEXES = (PairwiseSearch, KDTreeSearch, BallTreeSearch)


def written(content: object, *, broadcast: bool = False) -> tuple[bytes, str]:
    file = io.BytesIO()
    digest = bundle.write_bundle(content, file, broadcast=broadcast)
    return file.getvalue(), digest


def addresses(array: np.ndarray) -> tuple[int, int]:
    start = array.__array_interface__["data"][0]
    return start, start + array.nbytes


def inside(array: np.ndarray, data: memoryview) -> bool:
    """Whether the numbers of `array` lie within `data`: nothing was copied."""
    start, stop = addresses(array)
    first, last = addresses(np.frombuffer(data, np.uint8))
    return first <= start and stop <= last


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    seed = np.random.default_rng(0)
    return {
        "odd": seed.integers(0, 9, 13).astype(np.uint8),
        "matrix": seed.normal(size=(31, 7)),
        "narrow": seed.normal(size=(5, 3)).astype(np.float32),
        "empty": np.empty((0, 3)),
    }


def test_a_written_bundle_is_read_back(arrays, tmp_path):
    content = {**arrays, "ids": pa.array(["a", None, "bcd"]), "text": "x" * 100_000}
    data, _ = written(content)
    (tmp_path / "file").write_bytes(data)
    found = read_bundle(map_file(str(tmp_path / "file")))
    assert found.keys() == content.keys()
    for name in arrays:
        np.testing.assert_array_equal(found[name], arrays[name])
    assert found["ids"].equals(content["ids"])
    assert found["text"] == content["text"]


def test_arrays_are_aligned_read_only_views_of_the_map(arrays, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(written(arrays)[0])
    data = map_file(str(path))
    for array in read_bundle(data).values():
        assert not array.flags.writeable
        assert array.size == 0 or inside(array, data)
        assert array.size == 0 or addresses(array)[0] % 64 == 0
        with pytest.raises(ValueError, match="cannot set WRITEABLE"):
            array.flags.writeable = True


def test_the_file_of_a_broadcast_is_mapped_where_it_is_aligned(arrays, tmp_path):
    big = {**arrays, "big": np.arange(40_000.0)}
    data, _ = written(big, broadcast=True)
    path = tmp_path / "broadcast"
    path.write_bytes(pickle.dumps(data, protocol=5))
    assert path.read_bytes()[:3] == b"\x80\x05B"
    mapped = map_file(str(path))
    assert bytes(mapped) == data
    start = addresses(np.frombuffer(mapped, np.uint8))[0]
    assert start % mmap.PAGESIZE == 7
    for array in read_bundle(mapped).values():
        assert array.size == 0 or (inside(array, mapped) and addresses(array)[0] % 64 == 0)


def test_the_head_of_a_broadcast_beyond_4_gib_is_recognized(arrays, tmp_path):
    # As pickle writes bytes whose length does not fit in four bytes.
    data, _ = written(arrays)
    path = tmp_path / "broadcast"
    path.write_bytes(b"\x80\x05\x8e" + len(data).to_bytes(8, "little") + data + b".")
    assert pickle.loads(path.read_bytes()) == data
    assert bytes(map_file(str(path))) == data


def test_a_small_broadcast_is_read_without_a_map(tmp_path):
    data, _ = written([1, 2], broadcast=True)
    path = tmp_path / "broadcast"
    path.write_bytes(pickle.dumps(data, protocol=5))
    assert path.read_bytes()[2:3] == b"\x95"  # a frame
    assert read_bundle(map_file(str(path))) == [1, 2]


@pytest.mark.parametrize("broadcast", [False, True])
@pytest.mark.parametrize("head", [0, 1, 63, 64, 1000])
@pytest.mark.parametrize("sizes", [[], [0], [1, 1, 0, 65, 64], [5 << 30, 3], [1, (4 << 30) - 1]])
def test_buffers_are_aligned_and_do_not_overlap(head, sizes, broadcast):
    extents = bundle._extents(head, sizes, broadcast=broadcast)
    assert [size for _, size in extents] == sizes
    total = max([0, *(offset + size for offset, size in extents)])
    lead = 0
    if broadcast:
        lead = 7 if total <= 0xFFFFFFFF else 11
    assert all((offset + lead) % 64 == 0 for offset, _ in extents)
    ends = [head + 24 + 16 * len(sizes), *(offset + size for offset, size in extents)]
    for end, (offset, _) in zip(ends, extents, strict=False):
        assert end <= offset < end + 64


def test_a_truncated_bundle_is_refused(arrays):
    data, _ = written(arrays)
    last = max(len(data) - 400, 0)
    for length in itertools.chain(range(0, last, 7), range(last, len(data))):
        with pytest.raises(ValueError, match=r"bundle is truncated|not an index bundle"):
            read_bundle(memoryview(data[:length]))


def test_other_files_are_refused(tmp_path):
    for content in (b"PAR1", b"x" * 500, pickle.dumps([1, 2], protocol=4)):
        path = tmp_path / "file"
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not an index bundle"):
            read_bundle(map_file(str(path)))
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="empty"):
        map_file(str(path))


@pytest.mark.parametrize(
    ("kind", "metric"),
    [(kind, metric) for kind in INDEXES for metric in ("euclidean", "minkowski", "chebyshev")]
    + [(PairwiseSearch, "jaccard"), (BallTreeSearch, "jaccard"), (BallTreeSearch, "mahalanobis")]
    + [(TermSearch, metric) for metric in ("cityblock", "hamming", "mahalanobis", "braycurtis")],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_index_answers_the_same_from_a_map(kind, dtype, metric, tmp_path):
    seed = np.random.default_rng(1)
    items = seed.integers(-3, 4, size=(300, 4)).astype(dtype)
    params = {"VI": np.eye(4)} if metric == "mahalanobis" else {}
    index = kind.build(items, IndexSpec(resolve_metric(metric, 3.0, params), kind.algorithm, 5))
    queries = items[::30] + dtype(0.25)
    queries.flags.writeable = False
    path = tmp_path / "file"
    path.write_bytes(written(index)[0])
    data = map_file(str(path))
    opened = read_bundle(data)
    assert inside(opened.matrix, data)
    assert not opened.matrix.flags.writeable
    for before, after in zip(
        index.kneighbors(queries, 9), opened.kneighbors(queries, 9), strict=True
    ):
        assert before.tobytes() == after.tobytes()


def searchable(ids: list[str], last: float = 0.0) -> Searchable:
    items = np.arange(12.0).reshape(4, 3)
    items[-1, -1] = last
    index = KDTreeSearch.build(items, IndexSpec(resolve_metric("euclidean"), "kd_tree"))
    return Searchable(Items(4, pa.array(ids)), index)


def test_digests_are_equal_for_equal_content_only():
    names = ["".join(["a", str(i)]) for i in range(4)]
    _, digest = written(searchable(names))
    assert written(searchable([name[:] for name in names]))[1] == digest
    assert written(searchable(names), broadcast=True)[1] == digest
    assert written(searchable(names, last=0.5))[1] != digest
    assert written(searchable([*names[:3], "b"]))[1] != digest


@dataclass
class CountingRef:
    """A place that counts the reads of its bundles."""

    digest: str
    content: bytes
    opened: list[str] = field(default_factory=list)

    def data(self) -> memoryview:
        self.opened.append(self.digest)
        return memoryview(self.content)


@pytest.fixture
def _nothing_open(monkeypatch):
    monkeypatch.setattr(bundle, "_open", type(bundle._open)())


@pytest.mark.usefixtures("_nothing_open")
def test_a_bundle_is_opened_once():
    first, second = CountingRef("a", written([1])[0]), CountingRef("a", written([1])[0])
    assert open_bundle(first) is open_bundle(second)
    assert (first.opened, second.opened) == (["a"], [])


@pytest.mark.usefixtures("_nothing_open")
def test_the_four_last_used_bundles_stay_open():
    opened: list[str] = []
    refs = {name: CountingRef(name, written(name)[0], opened) for name in "abcde"}
    for name in "abcd":
        open_bundle(refs[name])
    open_bundle(refs["a"])  # so that b is the one that was used longest ago
    open_bundle(refs["e"])
    for name in "acde":
        assert open_bundle(refs[name]) == name
    assert opened == list("abcde")
    open_bundle(refs["b"])
    assert opened == list("abcdeb")


@pytest.mark.usefixtures("_nothing_open")
def test_refs_to_a_file_and_to_a_broadcast(tmp_path):
    @dataclass
    class Broadcast:
        value: bytes
        _path: str | None

    data, digest = written({"a": np.arange(30_000.0)}, broadcast=True)
    path = Path(tmp_path, "file")
    path.write_bytes(pickle.dumps(data, protocol=5))
    mapped = BroadcastRef(digest, Broadcast(b"", str(path))).data()
    encrypted = BroadcastRef(digest, Broadcast(data, None)).data()
    assert bytes(mapped) == bytes(encrypted) == data
    path.write_bytes(data)
    found = open_bundle(FileRef(digest, str(path)))
    assert found["a"].tolist() == list(range(30_000))


@pytest.mark.parametrize(
    ("ref", "remedy"),
    [
        (lambda path: FileRef("d", path), r"Call model\.transform\(queries\) again"),
        (lambda path: BroadcastRef("d", SimpleNamespace(_path=path)), r"Call model\.unpersist\(\)"),
        (lambda path: ArtifactRef("d", path, str), "in a new Spark Connect session"),
    ],
    ids=["file", "broadcast", "artifact"],
)
def test_a_file_that_was_removed(ref, remedy, tmp_path):
    path = str(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match=rf"index file was deleted.*{remedy}") as told:
        open_bundle(ref(path))
    assert path in str(told.value)
