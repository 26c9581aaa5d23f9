"""Checks of the arrays of a saved structure, before native code reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Expected = Mapping[str, tuple[type[np.generic], tuple[int | None, ...]]]


def check_structure(structure: Mapping[str, NDArray[Any]], expected: Expected) -> None:
    """Raise an error unless a structure has the expected arrays, with finite numbers.

    Parameters
    ----------
    structure : mapping of str to ndarray
        The arrays.
    expected : mapping of str to tuple
        Name -> the dtype and the shape of the array; None stands for any length of at least 1.

    Raises
    ------
    ValueError
        If an array is missing, unknown, of another dtype or shape, or not finite.
    """
    for name in structure:
        if name not in expected:
            raise damaged(name, "is unknown")
    for name, (dtype, shape) in expected.items():
        if name not in structure:
            raise damaged(name, "is missing")
        part = structure[name]
        if not isinstance(part, np.ndarray) or part.dtype != np.dtype(dtype):
            kind = getattr(part, "dtype", type(part).__name__)
            raise damaged(name, f"must have dtype {np.dtype(dtype)}, got {kind}")
        fits = len(part.shape) == len(shape) and all(
            have == want if want is not None else have > 0
            for have, want in zip(part.shape, shape, strict=True)
        )
        if not fits:
            wanted = tuple("any" if each is None else each for each in shape)
            raise damaged(name, f"must have shape {wanted}, got {part.shape}")
        if part.dtype.kind == "f" and not np.isfinite(part).all():
            raise damaged(name, "contains NaN or infinity")


def check_range(name: str, part: NDArray[np.integer], least: int, beyond: int) -> None:
    """Raise an error unless all integers of an array are in a range.

    Parameters
    ----------
    name : str
        The name of the array.
    part : ndarray, integer
        The array.
    least, beyond : int
        The range; `beyond` is not part of it.

    Raises
    ------
    ValueError
        If a number is out of range.
    """
    if part.size and (part.min() < least or part.max() >= beyond):
        raise damaged(
            name,
            f"must contain integers from {least} to {beyond - 1}, got {part.min()} to {part.max()}",
        )


def damaged(name: str, problem: str) -> ValueError:
    """Return the error of a damaged part of a structure.

    Parameters
    ----------
    name : str
        The name of the part.
    problem : str
        What is wrong with it.

    Returns
    -------
    ValueError
        The error.
    """
    return ValueError(f"the saved index is damaged: {name!r} {problem}")
