"""The file that holds an index: its layout, and opening it by memory mapping.

A bundle is a pickle of protocol 5 whose large buffers stand outside of it (PEP 574), each aligned
where it will be mapped. numpy arrays, Arrow arrays and scikit-learn's trees travel unchanged, and
all processes that map one file share its pages. Bundles live for a session: they are never part of
a saved model. No Spark in here.
"""

from __future__ import annotations

import hashlib
import mmap
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

_ALIGNMENT = 64
"""A cache line, and the widest vector register: misaligned maps are measurably slower to search."""

_MAGIC = b"knnbndl1"
_HEADER = struct.Struct("<8sQQ")
"""Magic, length of the pickle, number of buffers."""
_EXTENT = struct.Struct("<QQ")
"""Offset and length of one buffer, counted from the start of the bundle."""

_PICKLE_START = b"\x80\x05"
"""How the local file of a broadcast begins: it is a pickle, of protocol 5, of one bytes object."""

_LEADS = {b"B": 7, b"\x8e": 11}
"""Opcode of a bytes object -> where its bytes begin: behind 2 + 1 bytes and a length of 4 or 8."""

_OPEN_BUNDLES = 4
"""Bundles that one worker process keeps open: a few models in one plan, not a session's worth."""


def write_bundle(content: Any, file: BinaryIO, *, broadcast: bool = False) -> str:
    """Write `content` to `file`.

    Parameters
    ----------
    content : object
        Anything that pickles.
    file : binary file
        Open for writing, at its start.
    broadcast : bool, default=False
        Align the buffers for a file that is read back behind the head of a pickled broadcast.

    Returns
    -------
    str
        Names the content: equal for equal content.
    """
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(content, protocol=5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    extents = _extents(len(head), [view.nbytes for view in views], broadcast=broadcast)
    digest = hashlib.blake2b(head, digest_size=20)
    file.write(_HEADER.pack(_MAGIC, len(head), len(views)))
    for extent in extents:
        file.write(_EXTENT.pack(*extent))
    file.write(head)
    for (offset, _), view in zip(extents, views, strict=True):
        file.write(b"\0" * (offset - file.tell()))
        file.write(view)
        digest.update(view)
    return digest.hexdigest()


def _extents(head: int, sizes: list[int], *, broadcast: bool) -> list[tuple[int, int]]:
    """Place buffers of `sizes` behind a pickle of `head` bytes: (offset, length) of each."""
    start = _HEADER.size + _EXTENT.size * len(sizes) + head
    lead = 0
    if broadcast:
        largest = start + sum(sizes) + _ALIGNMENT * len(sizes)
        lead = _LEADS[b"B" if largest <= 0xFFFFFFFF else b"\x8e"]
    extents = []
    for size in sizes:
        start += -(start + lead) % _ALIGNMENT
        extents.append((start, size))
        start += size
    return extents


def read_bundle(data: memoryview) -> Any:
    """The content of a bundle, over the memory of `data`; nothing large is copied.

    Raises
    ------
    ValueError
        If `data` is not a whole bundle.
    """
    if len(data) < _HEADER.size or bytes(data[:8]) != _MAGIC:
        raise ValueError("not a bundle of an index: its first bytes are wrong")
    _, head, count = _HEADER.unpack_from(data)
    start = _HEADER.size + count * _EXTENT.size
    end = start + head
    if end <= len(data):
        extents = list(_EXTENT.iter_unpack(data[_HEADER.size : start]))
        end = max([end, *(offset + size for offset, size in extents)])
    if end > len(data):
        raise ValueError(f"a truncated bundle of an index: {len(data)} bytes of {end}")
    buffers = [data[offset : offset + size] for offset, size in extents]
    return pickle.loads(data[start : start + head], buffers=buffers)


def map_file(path: str) -> memoryview:
    """Map a bundle's file, or the local file of the broadcast that carries it, read-only."""
    with open(path, "rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    if bytes(data[:2]) != _PICKLE_START:
        return data
    lead = _LEADS.get(bytes(data[2:3]))
    if lead is None:  # a small value stands inside a frame of the pickle: no need to map it
        return memoryview(pickle.loads(data))
    size = int.from_bytes(data[3:lead], "little")
    return data[lead : lead + size]


def _map_shipped(path: str, remedy: str) -> memoryview:
    """Map a file that was there when the index was shipped."""
    try:
        return map_file(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            error.errno,
            "the index file was deleted while the Spark session was running, possibly by a "
            f"cleaner of temporary files. {remedy}",
            path,
        ) from error


class BundleRef(Protocol):
    """Where a worker finds a bundle; small, and travels inside the function that Spark ships."""

    @property
    def digest(self) -> str:
        """Names the content."""

    def data(self) -> memoryview:
        """The bundle's bytes, mapped wherever that can be."""


@dataclass(frozen=True)
class FileRef:
    """A bundle in a file that every worker sees: local mode.

    Attributes
    ----------
    digest : str
        Names the content.
    path : str
        The file.
    """

    digest: str
    path: str

    def data(self) -> memoryview:
        """Map the file."""
        return _map_shipped(
            self.path,
            "Call model.transform(queries) again, which writes it again, or set spark.local.dir to "
            "a folder that is not cleaned",
        )


@dataclass(frozen=True)
class BroadcastRef:
    """A bundle that Spark broadcasts to the executors.

    Attributes
    ----------
    digest : str
        Names the content.
    broadcast : pyspark.core.broadcast.Broadcast
        Its value is the bundle's bytes.
    """

    digest: str
    broadcast: Any

    def data(self) -> memoryview:
        """Map the broadcast's local file; where there is none (I/O encryption), take its value."""
        path = getattr(self.broadcast, "_path", None)
        if path is None:
            return memoryview(self.broadcast.value)
        return _map_shipped(
            path,
            "Call model.unpersist(), then model.transform(queries) again, which sends it again",
        )


@dataclass(frozen=True)
class ArtifactRef:
    """A bundle that a Spark Connect server keeps for one session, as a file on every executor.

    Attributes
    ----------
    digest : str
        Names the content.
    name : str
        Of the file.
    locate : callable
        Tells a worker the path of a file of the session: `compat.session_file`.
    """

    digest: str
    name: str
    locate: Callable[[str], str]

    def data(self) -> memoryview:
        """Map the executor's copy of the file."""
        return _map_shipped(
            self.locate(self.name), "Fit or load the model in a new session of Spark Connect"
        )


@dataclass(frozen=True)
class InlineRef:
    """A bundle that travels inside of the function that Spark ships; each process has a copy.

    Attributes
    ----------
    digest : str
        Names the content.
    content : bytes
        The bundle.
    """

    digest: str
    content: bytes

    def data(self) -> memoryview:
        """The bytes."""
        return memoryview(self.content)


_open: OrderedDict[str, Any] = OrderedDict()


def open_bundle(ref: BundleRef) -> Any:
    """The content behind `ref`, opened once in each process.

    Worker processes run one task at a time, so this needs no lock.
    """
    if ref.digest not in _open:
        while len(_open) >= _OPEN_BUNDLES:
            _open.popitem(last=False)
        _open[ref.digest] = read_bundle(ref.data())
    _open.move_to_end(ref.digest)
    return _open[ref.digest]
