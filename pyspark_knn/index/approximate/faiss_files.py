"""FAISS indexes as arrays of bytes, which are opened without a copy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pyspark_knn.index.approximate.libraries import load_library

if TYPE_CHECKING:
    from numpy.typing import NDArray


def file_of(index: Any, n_bytes: int) -> NDArray[np.uint8]:
    """Write a FAISS index to an array.

    Parameters
    ----------
    index : faiss.Index
        The index.
    n_bytes : int
        About the size of the file. `faiss.serialize_index` would need the memory twice.

    Returns
    -------
    ndarray of shape (n_bytes,), dtype uint8
        The file.
    """
    faiss = load_library("faiss")
    file = np.empty(n_bytes, np.uint8)
    end = 0

    def write(part: bytes) -> None:
        nonlocal file, end
        if end + len(part) > len(file):
            file = np.concatenate([file, np.empty(len(file) // 8 + len(part), np.uint8)])
        file[end : end + len(part)] = np.frombuffer(part, np.uint8)
        end += len(part)

    faiss.write_index(index, faiss.PyCallbackIOWriter(write))
    return file[:end]


def open_file(file: NDArray[np.uint8], version: str) -> Any:
    """Open a FAISS index over its file, which may be a read-only memory map.

    Parameters
    ----------
    file : ndarray of shape (n_bytes,), dtype uint8
        The file. It must exist as long as the index does.
    version : str
        The version of FAISS that wrote it.

    Returns
    -------
    faiss.Index
        The index; its vectors are views of the file.

    Raises
    ------
    ImportError
        If FAISS is missing or too old.
    ValueError
        If this version of FAISS cannot read the file.
    """
    faiss = load_library("faiss", version)
    try:
        # read_index copies the pointer to the bytes, not the reader.
        return faiss.read_index(faiss.ZeroCopyIOReader(faiss.swig_ptr(file), file.nbytes))
    except RuntimeError as error:
        raise ValueError(
            f"faiss {faiss.__version__} cannot read the index that version {version} built. "
            "Install the same version on the driver and on all executors."
        ) from error
