"""Params of a fitted model: those that shaped its index can no longer be changed."""

from __future__ import annotations

from typing import Any, TypeVar

from pyspark.ml.param import Param

from pyspark_knn.params import CheckedParams

Self_ = TypeVar("Self_", bound="FittedParams")

FIT_PARAMS = frozenset(
    {
        "algorithm",
        "dtype",
        "idCol",
        "labelCol",
        "leafSize",
        "metric",
        "metricParams",
        "numShards",
        "p",
        "placement",
        "shardBy",
        "weightCol",
    }
)
"""What `fit` reads, and nothing after it."""


class FittedParams(CheckedParams):
    """Params that refuse what needs a fit, once there is one.

    pyspark sets Params by many ways: `copy` and `transform` with a param map, setters, `set`. A
    model that took another metric by one of them would search by the old one, and by the new one
    after it was saved and loaded.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._fixed: dict[str, tuple[Any, Any]] = {}

    def _fix(self, **chosen: Any) -> None:
        """Set what a fit chose, and fix all that it read.

        A param map of a grid holds what was asked for, such as algorithm "auto". CrossValidator
        gives it to `transform` too, so that stays allowed, and changes nothing.
        """
        asked = {name: self.getOrDefault(name) for name in FIT_PARAMS if self.hasParam(name)}
        self._set(**chosen)
        self._fixed = {name: (self.getOrDefault(name), value) for name, value in asked.items()}

    def _set(self: Self_, **kwargs: Any) -> Self_:
        kept = {
            name: self._as_fitted(name, value)
            for name, value in kwargs.items()
            if name in self._fixed
        }
        super()._set(**{**kwargs, **kept})
        return self

    def set(self, param: Param[Any], value: Any) -> None:
        """Set a param, unless it needs a fit."""
        if param.name in self._fixed:
            value = self._as_fitted(param.name, value)
        super().set(param, value)

    def clear(self, param: Param[Any]) -> None:
        """Unset a param, unless it needs a fit."""
        if param.name in self._fixed and self.isSet(param):
            self._as_fitted(param.name, self._defaultParamMap.get(param))
        else:
            super().clear(param)

    def _as_fitted(self, name: str, value: Any) -> Any:
        """The value that `name` was fitted with; an error if `value` means another one."""
        fitted, asked = self._fixed[name]
        given = value if value is None else getattr(self, name).typeConverter(value)
        if given not in (fitted, asked):
            free = sorted(param.name for param in self.params if param.name not in FIT_PARAMS)
            raise ValueError(
                f"{name} cannot be changed on a fitted {type(self).__name__}: it was fitted with "
                f"{fitted!r}, got {given!r}. Set it on the estimator and fit again. A fitted model "
                f"takes: {', '.join(free)}"
            )
        return fitted
