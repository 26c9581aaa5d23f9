"""Converters of Params: they check types and ranges, and name the Param in their errors.

A converter is a partial of a module-level function, so that the stages that have it can be pickled.
"""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pyspark_knn.suggestions import did_you_mean

Converter = Callable[[Any], Any]


def whole(name: str, minimum: int) -> Converter:
    """Return a converter to int that accepts integral values of any type.

    Parameters
    ----------
    name : str
        The name of the Param.
    minimum : int
        The smallest value that is accepted.

    Returns
    -------
    callable
        The converter.
    """
    return functools.partial(_whole, name, minimum)


def _whole(name: str, minimum: int, value: Any) -> int:
    problem = f"{name} must be an integer >= {minimum}, got {value!r}"
    if isinstance(value, bool) or not isinstance(value, (numbers.Integral, float, np.floating)):
        raise TypeError(problem)
    whole_number = isinstance(value, numbers.Integral) or value.is_integer()
    if not whole_number or int(value) < minimum:
        raise ValueError(problem)
    return int(value)


def real(name: str, allowed: str, check: Callable[[float], bool]) -> Converter:
    """Return a converter to float that accepts numbers of any real type.

    Parameters
    ----------
    name : str
        The name of the Param.
    allowed : str
        The values that `check` accepts, in words, for the error.
    check : callable
        Returns whether a float is accepted. A module-level function, not a lambda, since it is
        pickled with the stage.

    Returns
    -------
    callable
        The converter.
    """
    return functools.partial(_real, name, allowed, check)


def _real(name: str, allowed: str, check: Callable[[float], bool], value: Any) -> float:
    problem = f"{name} must be {allowed}, got {value!r}"
    if not isinstance(value, (numbers.Real, np.floating)) or isinstance(value, bool):
        raise TypeError(problem)
    try:
        number = float(value)
    except OverflowError as error:
        raise ValueError(problem) from error
    if not check(number):
        raise ValueError(problem)
    return number


def is_number(value: float) -> bool:
    """Whether the value is not NaN."""
    return not math.isnan(value)


def is_positive(value: float) -> bool:
    """Whether the value is > 0."""
    return value > 0


def is_not_negative(value: float) -> bool:
    """Whether the value is >= 0."""
    return value >= 0


def choice(name: str, options: tuple[str, ...] | Callable[[], tuple[str, ...]]) -> Converter:
    """Return a converter that accepts one of a few strings.

    Parameters
    ----------
    name : str
        The name of the Param.
    options : tuple of str, or callable
        The strings that are accepted, or a module-level function that returns them and is called
        in each conversion.

    Returns
    -------
    callable
        The converter.
    """
    return functools.partial(_choice, name, options)


def _choice(name: str, options: tuple[str, ...] | Callable[[], tuple[str, ...]], value: Any) -> str:
    allowed = options() if callable(options) else options
    problem = f"{name} must be one of {', '.join(allowed)}, got {value!r}"
    if not isinstance(value, str):
        raise TypeError(problem)
    if value not in allowed:
        raise ValueError(f"{problem}{did_you_mean(value, allowed)}")
    return str(value)  # a numpy.str_ becomes a str


def flag(name: str) -> Converter:
    """Return a converter that accepts True and False.

    Parameters
    ----------
    name : str
        The name of the Param.

    Returns
    -------
    callable
        The converter.
    """
    return functools.partial(_flag, name)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def text(name: str) -> Converter:
    """Return a converter that accepts strings.

    Parameters
    ----------
    name : str
        The name of the Param.

    Returns
    -------
    callable
        The converter.
    """
    return functools.partial(_text, name)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {value!r}")
    return str(value)


def names(name: str) -> Converter:
    """Return a converter to a list of distinct strings, which accepts a single string as well.

    Parameters
    ----------
    name : str
        The name of the Param.

    Returns
    -------
    callable
        The converter.
    """
    return functools.partial(_names, name)


def _names(name: str, value: Any) -> list[str]:
    problem = f"{name} must be the name of a column or a list of names, got {value!r}"
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, (list, tuple)) or not all(isinstance(each, str) for each in listed):
        raise TypeError(problem)
    if not listed or len(set(listed)) < len(listed):
        raise ValueError(f"{problem}. Each column must be named once, and at least one column.")
    return [str(each) for each in listed]


def optional(convert: Converter) -> Converter:
    """Return a converter that also accepts None, which means that the Param is unset.

    Parameters
    ----------
    convert : callable
        The converter of all other values.

    Returns
    -------
    callable
        The converter.
    """
    return functools.partial(_optional, convert)


def _optional(convert: Converter, value: Any) -> Any:
    return None if value is None else convert(value)


def json_dict(name: str) -> Converter:
    """Return a converter to a dict for JSON: numpy arrays become lists, numpy scalars numbers.

    Parameters
    ----------
    name : str
        The name of the Param.

    Returns
    -------
    callable
        The converter.
    """
    return functools.partial(_json_dict, name)


def _json_dict(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise TypeError(f"{name} must be a dict with string keys, got {value!r}")
    return {key: _plain(name, each) for key, each in value.items()}


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(name, each) for each in value]
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise TypeError(f"{name} must contain numbers, strings, lists and arrays only, got {value!r}")
