"""Converters of Params: they check types and ranges, and name the Param in what they raise."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Converter = Callable[[Any], Any]


def whole(name: str, minimum: int) -> Converter:
    """A converter to int, for any integral type, that refuses what is below `minimum`."""

    def convert(value: Any) -> int:
        given = f"{name} must be an integer >= {minimum}, got {value!r}"
        if isinstance(value, bool) or not isinstance(value, (numbers.Integral, float, np.floating)):
            raise TypeError(given)
        whole_number = isinstance(value, numbers.Integral) or value.is_integer()
        if not whole_number or int(value) < minimum:
            raise ValueError(given)
        return int(value)

    return convert


def real(name: str, allowed: str, check: Callable[[float], bool]) -> Converter:
    """A converter to float, for any real type; `allowed` says in words what `check` does."""

    def convert(value: Any) -> float:
        given = f"{name} must be {allowed}, got {value!r}"
        if not isinstance(value, (numbers.Real, np.floating)) or isinstance(value, bool):
            raise TypeError(given)
        try:
            number = float(value)
        except OverflowError as error:
            raise ValueError(given) from error
        if not check(number):
            raise ValueError(given)
        return number

    return convert


def choice(name: str, options: tuple[str, ...]) -> Converter:
    """A converter that takes one of a few words."""

    def convert(value: Any) -> str:
        if not isinstance(value, str):
            raise TypeError(f"{name} must be one of {', '.join(options)}, got {value!r}")
        if value not in options:
            raise ValueError(f"{name} must be one of {', '.join(options)}, got {value!r}")
        return str(value)  # numpy has strings of its own

    return convert


def text(name: str) -> Converter:
    """A converter that takes a string."""

    def convert(value: Any) -> str:
        if not isinstance(value, str):
            raise TypeError(f"{name} must be a string, got {value!r}")
        return str(value)

    return convert


def optional(convert: Converter) -> Converter:
    """Let None through: it means that the Param is unset."""
    return lambda value: None if value is None else convert(value)


def json_dict(name: str) -> Converter:
    """A converter to a dict for JSON: numpy arrays become lists, numpy scalars numbers."""

    def plain(value: Any) -> Any:
        if isinstance(value, (np.ndarray, np.generic)):
            value = value.tolist()
        if isinstance(value, (list, tuple)):
            return [plain(each) for each in value]
        if value is None or isinstance(value, (str, bool, int, float)):
            return value
        raise TypeError(f"{name} must hold numbers, strings, lists and arrays, got {value!r}")

    def convert(value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise TypeError(f"{name} must be a dict with names as keys, got {value!r}")
        return {key: plain(each) for key, each in value.items()}

    return convert
