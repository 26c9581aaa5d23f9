"""The buffers of numpy, which slow down operations on short rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np

_BUFFER = 256
"""Elements in a buffer of numpy, see `short_buffers`."""


def buffers_for(row_length: int) -> contextlib.AbstractContextManager[None]:
    """Let numpy use short buffers for operations on rows that are parts of longer ones.

    Rows that are shorter than a short buffer are copied either way.

    Parameters
    ----------
    row_length : int
        The number of elements in a row.

    Returns
    -------
    context manager
        `short_buffers`, or one that changes nothing.
    """
    return short_buffers() if row_length >= _BUFFER else contextlib.nullcontext()


@contextlib.contextmanager
def short_buffers() -> Iterator[None]:
    """Let numpy use short buffers.

    If a row of a broadcast operation is shorter than its buffer, numpy copies the rows to the
    buffer, one by one, which takes three times as long as the operation.
    """
    before = np.setbufsize(_BUFFER)
    try:
        yield
    finally:
        np.setbufsize(before)
