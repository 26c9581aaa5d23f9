"""The public members of a class, in the groups of its page in the API reference."""

from __future__ import annotations

import inspect
from typing import Any

from pyspark.ml.param import Param

PARAM_METHODS = {
    *("clear", "copy", "explainParam", "explainParams", "extractParamMap", "getOrDefault"),
    *("getParam", "hasDefault", "hasParam", "isDefined", "isSet", "params", "set", "setParams"),
}
"""Members that every `pyspark.ml.param.Params` has, and `setParams`."""

SAVING = {"load", "read", "save", "write"}


def public_members(cls: type) -> list[str]:
    """Return the names that a user finds by tab completion, inherited ones included."""
    return [name for name in dir(cls) if not name.startswith("_")]


def _is_accessor(name: str, params: set[str]) -> bool:
    return name[:3] in ("get", "set") and name[3:4].lower() + name[4:] in params


def groups(cls: type) -> dict[str, list[str]]:
    """Return all public members of a class by the heading that they appear under."""
    names = public_members(cls)
    params = {name for name in names if isinstance(getattr(cls, name), Param)}
    accessors = {name for name in names if _is_accessor(name, params)}
    rest = [name for name in names if name not in params | accessors]
    own = [name for name in rest if name not in PARAM_METHODS | SAVING]
    is_property = {name: not callable(inspect.getattr_static(cls, name)) for name in rest}
    for name in rest:
        if isinstance(inspect.getattr_static(cls, name), (classmethod, staticmethod)):
            is_property[name] = False
    found = {
        "Methods": [name for name in own if not is_property[name]],
        "Attributes": [name for name in own if is_property[name]],
        "Saving and loading": [name for name in rest if name in SAVING],
        "Params": [name for name in names if name in params],
        "Getters and setters": sorted(accessors, key=lambda name: (name[3:], name)),
        "Methods of all stages": [name for name in rest if name in PARAM_METHODS],
    }
    return {heading: members for heading, members in found.items() if members}


def kind(cls: type, name: str) -> str:
    """Return the autodoc directive of a member."""
    member = inspect.getattr_static(cls, name)
    return "autoproperty" if isinstance(member, property) else "automethod"


def param_lines(cls: Any, name: str) -> list[str]:
    """Return the description of a Param and its default."""
    param = getattr(cls, name)
    text = param.doc[0].upper() + param.doc[1:].rstrip(".") + "."
    try:
        default = cls()._defaultParamMap
    except (RuntimeError, TypeError):  # a class that only another object creates
        return [text]
    values = {each.name: value for each, value in default.items()}
    if values.get(name) is None:
        return [text]
    return [text, "", f"Default: ``{values[name]!r}``."]
