"""How stages are shown: as text, and as HTML in notebooks in the style of scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from pyspark.ml.param import Param, Params

_LONGEST = 70
"""The characters of a value that are shown."""

_BOX = "display:inline-block;border:1px solid #8aa;border-radius:4px;margin:2px"
_TITLE = "padding:2px 8px;background:rgba({color},0.25);cursor:pointer"
_FITTED, _UNFITTED = "80,150,230", "240,170,70"
_REST = "margin:0 8px 4px"
_TABLE = "border-collapse:collapse;margin:4px 8px;color:inherit"
_CELL = "text-align:left;padding:1px 12px 1px 0"


def only_items(count: int) -> str:
    """Return the clause of a warning that there are only so many items."""
    return "there is only 1 item" if count == 1 else f"there are only {count} items"


class Shown(Params):
    """A stage that shows its Params that differ from their defaults.

    The repr of other stages of MLlib is their uid, so that of an estimator starts with it.
    """

    def _facts(self) -> dict[str, Any] | None:
        """Return what to show first of a model, empty if it has no index; None for other stages."""
        return None

    def __repr__(self) -> str:
        facts, changed = self._facts(), self._changed_params()
        if facts is None:
            return f"{self.uid}({_listed(changed)})"
        known = ", ".join(f"{name}={value}" for name, value in {"uid": self.uid, **facts}.items())
        shown = f"{type(self).__name__}: {known}"
        if not facts:
            return f"{shown}, without an index"
        rest = {name: value for name, value in changed.items() if name not in facts}
        return f"{shown}, {_listed(rest)}" if rest else shown

    def _repr_html_(self) -> str:
        facts, changed = self._facts(), self._changed_params()
        color = _UNFITTED if facts is None else _FITTED
        rows = {name: f"<code>{escape(str(value))}</code>" for name, value in (facts or {}).items()}
        rows |= {name: _html(value) for name, value in changed.items() if name not in rows}
        docs = {param.name: param.doc for param in self.params}
        others = {
            name: _html(self.getOrDefault(name))
            for name in docs
            if name not in rows and self.isDefined(name)
        }
        title = f"<b>{escape(type(self).__name__)}</b> <code>{escape(self.uid)}</code>"
        title += " without an index" if facts == {} else ""
        defaults = f"<summary>{len(others)} Params with their default values</summary>"
        return (
            f"<div style='{_BOX}'><details open>"
            f"<summary style='{_TITLE.format(color=color)}'>{title}</summary>{_table(rows, docs)}"
            f"<details style='{_REST}'>{defaults}{_table(others, docs)}</details></details></div>"
        )

    def _changed_params(self) -> dict[str, Any]:
        """Return the values of the Params that differ from their defaults, by name."""
        return {
            param.name: self.getOrDefault(param)
            for param in self.params
            if self.isSet(param) and not self._has_default_value(param)
        }

    def _has_default_value(self, param: Param[Any]) -> bool:
        # A list compares NaN, which does not equal itself, by identity first.
        return self.hasDefault(param) and [self._paramMap[param]] == [self._defaultParamMap[param]]


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_short(value)}" for name, value in values.items())


def _short(value: Any) -> str:
    """Return the repr of a value, cut to a readable length unless it is a list of stages."""
    if _are_stages(value):
        return f"[{', '.join(map(repr, value))}]"
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _are_stages(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], Params)


def _html(value: Any) -> str:
    """Return the repr of a value as HTML; stages below each other, those of MLlib by their uid."""
    if not _are_stages(value):
        return f"<code>{escape(_short(value))}</code>"
    return "<br>".join(
        stage._repr_html_() if isinstance(stage, Shown) else f"<code>{escape(repr(stage))}</code>"
        for stage in value
    )


def _table(values: Mapping[str, str], docs: Mapping[str, str]) -> str:
    """Return names and values, which are HTML, as a table; the docs are shown as tooltips."""
    rows = "".join(
        f"<tr><th style='{_CELL}' title='{escape(docs.get(name, ''))}'>{escape(name)}</th>"
        f"<td style='{_CELL}'>{value}</td></tr>"
        for name, value in values.items()
    )
    return f"<table style='{_TABLE}'>{rows}</table>" if rows else ""
