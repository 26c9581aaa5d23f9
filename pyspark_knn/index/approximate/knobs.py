"""The values of a knob, and the checks of the parameters of approximate indexes."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any

_STEP = 2**0.5
"""The ratio of a level to the one before."""


def levels(least: int, most: int) -> list[int]:
    """Return values of a knob, each about 1.4 times the one before.

    Parameters
    ----------
    least : int
        The first value, at least 1.
    most : int
        The last value.

    Returns
    -------
    list of int
        The values, in ascending order; `least` alone if `most` is not above it.
    """
    found = [least]
    while found[-1] < most:
        found.append(min(most, max(found[-1] + 1, round(found[-1] * _STEP))))
    return found


def check_index_params(
    algorithm: str, names: Mapping[str, range | tuple[str, ...]], given: Mapping[str, Any]
) -> None:
    """Raise an error unless all parameters of an index exist and have a valid value.

    Parameters
    ----------
    algorithm : str
        The algorithm, for the message.
    names : mapping of str to range or tuple
        See `ApproximateIndex.index_names`.
    given : mapping of str to object
        The parameters.

    Raises
    ------
    TypeError, ValueError
        If a parameter is unknown, or its value is invalid.
    """
    _check_names("indexParams", algorithm, names, given)
    for name, value in given.items():
        allowed = names[name]
        if isinstance(allowed, range):
            what = f"indexParams[{name!r}]"
            _check_integer(what, value, allowed[0])
            if value > allowed[-1]:
                raise ValueError(f"{what} must be <= {allowed[-1]}, got {value!r}")
        elif value not in allowed:
            choices = ", ".join(map(repr, allowed))
            raise ValueError(f"indexParams[{name!r}] must be one of {choices}, got {value!r}")


def check_search_params(algorithm: str, name: str, given: Mapping[str, Any]) -> None:
    """Raise an error unless the parameters of a search are the one that exists, with a valid value.

    Parameters
    ----------
    algorithm : str
        The algorithm, for the message.
    name : str
        See `ApproximateIndex.search_name`.
    given : mapping of str to object
        The parameters.

    Raises
    ------
    TypeError, ValueError
        If a parameter is unknown, or its value is invalid.
    """
    _check_names("searchParams", algorithm, {name: 1}, given)
    for each, value in given.items():
        _check_integer(f"searchParams[{each!r}]", value, 1)


def _check_names(
    param: str, algorithm: str, names: Mapping[str, Any], given: Mapping[str, Any]
) -> None:
    unknown = [name for name in given if name not in names]
    if unknown:
        existing = ", ".join(map(repr, names))
        raise ValueError(
            f"{param} of algorithm {algorithm!r} has no {unknown[0]!r}. Supported: {existing}."
        )


def _check_integer(what: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{what} must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{what} must be >= {least}, got {value!r}")
