"""Bundles: the file format of a search index, which workers open by memory mapping.

A bundle is a pickle of protocol 5 with out-of-band buffers (PEP 574). The large buffers follow the
pickle, each at an offset that is aligned in memory once the file is mapped. numpy arrays, Arrow
arrays and scikit-learn's trees are stored and opened without a copy, and all processes that map one
file share its pages. A bundle exists during a Spark session only and is never part of a saved
model. This module does not import Spark.

``joblib.load(mmap_mode="r")`` is not suitable: it maps numpy arrays but copies Arrow's buffers,
it aligns arrays to 16 bytes only, and it needs a file of its own, whereas a bundle may also be
within a broadcast's file or in the rows of a shard. Opening a bundle unpickles, as joblib does:
bundles are read only by the Spark application that wrote them.
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

ALIGNMENT = 64
"""The alignment of buffers in bytes: the size of a cache line and of the widest vector register.
Misaligned arrays are measurably slower to search."""

_MAGIC = b"knnbndl1"
_HEADER = struct.Struct("<8sQQ")
"""Magic bytes, length of the pickle in bytes, number of buffers."""
_EXTENT = struct.Struct("<QQ")
"""Offset of a buffer from the start of the bundle, and its length, both in bytes."""

_PICKLE_START = b"\x80\x05"
"""The first bytes of the local file of a broadcast, which is a pickle of protocol 5."""

_LEADS = {b"B": 7, b"\x8e": 11}
"""Opcode of a bytes object in the pickle -> offset of its content in bytes. The protocol (2 bytes),
the opcode (1 byte) and the length (4 or 8 bytes) precede the content."""

_OPEN_BUNDLES = 4
"""The number of bundles that a worker keeps open: enough for one plan, not for a whole session."""


def write_bundle(content: Any, file: BinaryIO, *, broadcast: bool = False) -> str:
    """Write a bundle.

    Parameters
    ----------
    content : object
        Any object that can be pickled.
    file : binary file
        A file, open for writing. The bundle is written to its end, which is aligned.
    broadcast : bool, default=False
        Whether the bundle will be broadcast. Spark then pickles it, and the buffers must be aligned
        in the file with that pickle.

    Returns
    -------
    str
        A digest of the content, equal for equal content.
    """
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(content, protocol=5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    extents = _extents(len(head), [view.nbytes for view in views], broadcast=broadcast)
    digest = hashlib.blake2b(head, digest_size=20)
    begin = file.tell()
    file.write(_HEADER.pack(_MAGIC, len(head), len(views)))
    for extent in extents:
        file.write(_EXTENT.pack(*extent))
    file.write(head)
    for (offset, _), view in zip(extents, views, strict=True):
        file.write(b"\0" * (begin + offset - file.tell()))
        file.write(view)
        digest.update(view)
    return digest.hexdigest()


def _extents(head: int, sizes: list[int], *, broadcast: bool) -> list[tuple[int, int]]:
    """Return (offset, length) of buffers of `sizes` bytes that follow a pickle of `head` bytes."""
    start = _HEADER.size + _EXTENT.size * len(sizes) + head
    lead = 0
    if broadcast:
        largest = start + sum(sizes) + ALIGNMENT * len(sizes)
        lead = _LEADS[b"B" if largest <= 0xFFFFFFFF else b"\x8e"]
    extents = []
    for size in sizes:
        start += -(start + lead) % ALIGNMENT
        extents.append((start, size))
        start += size
    return extents


def read_bundle(data: memoryview) -> Any:
    """Read a bundle without copying its buffers.

    Parameters
    ----------
    data : memoryview
        The bytes of the bundle. They must not change afterwards.

    Returns
    -------
    object
        The content, whose arrays are views of `data`.

    Raises
    ------
    ValueError
        If `data` is not a complete bundle.
    """
    if len(data) < _HEADER.size or bytes(data[:8]) != _MAGIC:
        raise ValueError(f"not an index bundle: it does not start with {_MAGIC!r}")
    _, head, count = _HEADER.unpack_from(data)
    start = _HEADER.size + count * _EXTENT.size
    end = start + head
    if end <= len(data):
        extents = list(_EXTENT.iter_unpack(data[_HEADER.size : start]))
        end = max([end, *(offset + size for offset, size in extents)])
    if end > len(data):
        raise ValueError(f"the index bundle is truncated: it has {len(data)} of {end} bytes")
    buffers = [data[offset : offset + size] for offset, size in extents]
    return pickle.loads(data[start : start + head], buffers=buffers)


def bundle_end(data: memoryview) -> int:
    """Return the length in bytes of the bundle at the start of `data`, which may be cut off."""
    _, head, count = _HEADER.unpack_from(data)
    start = _HEADER.size + count * _EXTENT.size
    extents = _EXTENT.iter_unpack(data[_HEADER.size : start])
    end: int = max([start + head, *(offset + size for offset, size in extents)])
    return end


def map_file(path: str) -> memoryview:
    """Map a bundle into memory, read-only.

    Parameters
    ----------
    path : str
        The path of the bundle's file, or of the local file of its broadcast.

    Returns
    -------
    memoryview
        The bytes of the bundle.
    """
    with open(path, "rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    if bytes(data[:2]) != _PICKLE_START:
        return data
    lead = _LEADS.get(bytes(data[2:3]))
    if lead is None:  # a frame of the pickle contains a small value, which need not be mapped
        return memoryview(pickle.loads(data))
    size = int.from_bytes(data[3:lead], "little")
    return data[lead : lead + size]


def _map_shipped(path: str, remedy: str) -> memoryview:
    """Map the file of a shipped index; `remedy` ends the error message if the file is missing."""
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
    """The location of a bundle, pickled with the function that a worker runs."""

    @property
    def digest(self) -> str:
        """The digest of the content."""

    def data(self) -> memoryview:
        """Return the bytes of the bundle, memory-mapped if possible."""


@dataclass(frozen=True)
class FileRef:
    """A bundle in a file that every worker can read, in local mode.

    Attributes
    ----------
    digest : str
        The digest of the content.
    path : str
        The path of the file.
    """

    digest: str
    path: str

    def data(self) -> memoryview:
        """Map the file."""
        return _map_shipped(
            self.path,
            "Call model.transform(queries) again to restore it, or set spark.local.dir to a folder "
            "that is not cleaned",
        )


@dataclass(frozen=True)
class BroadcastRef:
    """A bundle that Spark broadcasts to the executors.

    Attributes
    ----------
    digest : str
        The digest of the content.
    broadcast : pyspark.core.broadcast.Broadcast
        A broadcast whose value is the bytes of the bundle.
    """

    digest: str
    broadcast: Any

    def data(self) -> memoryview:
        """Map the broadcast's local file, or return its value if there is none (I/O encryption)."""
        path = getattr(self.broadcast, "_path", None)
        if path is None:
            return memoryview(self.broadcast.value)
        return _map_shipped(
            path,
            "Call model.unpersist() and then model.transform(queries) to send it again",
        )


@dataclass(frozen=True)
class ArtifactRef:
    """A bundle that a Spark Connect server stores on every executor as an artifact of one session.

    Attributes
    ----------
    digest : str
        The digest of the content.
    name : str
        The name of the artifact.
    locate : callable
        Returns the path of an artifact, given its name: `compat.session_file`. A worker calls it.
    """

    digest: str
    name: str
    locate: Callable[[str], str]

    def data(self) -> memoryview:
        """Map the executor's copy of the file."""
        return _map_shipped(
            self.locate(self.name), "Fit or load the model in a new Spark Connect session"
        )


@dataclass(frozen=True)
class InlineRef:
    """A bundle that is part of the function that workers run; each process has a copy.

    Attributes
    ----------
    digest : str
        The digest of the content.
    content : bytes
        The bytes of the bundle.
    """

    digest: str
    content: bytes

    def data(self) -> memoryview:
        """Return the bytes of the bundle."""
        return memoryview(self.content)


_open: OrderedDict[str, Any] = OrderedDict()


def open_bundle(ref: BundleRef) -> Any:
    """Return the content of a bundle, which each worker process opens once.

    This needs no lock, since a worker runs one task at a time.

    Parameters
    ----------
    ref : BundleRef
        The location of the bundle.

    Returns
    -------
    object
        The content.
    """
    if ref.digest not in _open:
        while len(_open) >= _OPEN_BUNDLES:
            _open.popitem(last=False)
        _open[ref.digest] = read_bundle(ref.data())
    _open.move_to_end(ref.digest)
    return _open[ref.digest]
