"""Params of a fitted model: those that determine its index can no longer be changed."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

from pyspark.ml.param import Param

from pyspark_knn.params.checked import CheckedParams

Self_ = TypeVar("Self_", bound="FittedParams")

FIT_PARAMS = frozenset(
    {
        "addIndicator",
        "algorithm",
        "dtype",
        "idCol",
        "indexParams",
        "keepEmptyFeatures",
        "keyCols",
        "labelCol",
        "leafSize",
        "metric",
        "metricParams",
        "missingValue",
        "numShards",
        "p",
        "placement",
        "seed",
        "shardBy",
        "standardization",
        "storage",
        "weightCol",
    }
)
"""Params that only `fit` reads, of every model."""


class FittedParams(CheckedParams):
    """Params of a model, which raise an error if a change would need another fit.

    pyspark sets Params in many ways: `copy` and `transform` with a param map, setters, `set`. A
    model that accepted another metric in one of these ways would still search with the old one,
    and with the new one after it was saved and loaded.
    """

    _fit_params: ClassVar[frozenset[str]] = FIT_PARAMS
    """Params that only `fit` reads."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._fixed: dict[str, tuple[Any, Any]] = {}

    def _fix(self, **chosen: Any) -> None:
        """Set the Params that the fit chose, and fix all Params that only the fit reads.

        A param map of a grid contains the requested value, such as algorithm "auto", and
        CrossValidator passes it to `transform` as well. So the requested value is still accepted,
        and changes nothing.
        """
        requested = {
            name: self.getOrDefault(name) for name in self._fit_params if self.hasParam(name)
        }
        self._set(**chosen)
        self._fixed = {name: (self.getOrDefault(name), value) for name, value in requested.items()}

    def _fix_again(self, **chosen: Any) -> None:
        """Change Params that only the fit reads; the values that it requested stay accepted."""
        fixed = self._fixed
        self._fixed = {}
        self._set(**chosen)
        self._fixed = {name: (self.getOrDefault(name), value) for name, (_, value) in fixed.items()}

    def _set(self: Self_, **kwargs: Any) -> Self_:
        kept = {
            name: self._as_fitted(name, value)
            for name, value in kwargs.items()
            if name in self._fixed
        }
        super()._set(**{**kwargs, **kept})
        return self

    def set(self, param: Param[Any], value: Any) -> None:
        """Set a Param; raise a ValueError if that would need another fit."""
        if param.name in self._fixed:
            value = self._as_fitted(param.name, value)
        super().set(param, value)

    def clear(self, param: Param[Any]) -> None:
        """Clear a Param; raise a ValueError if that would need another fit."""
        if param.name in self._fixed and self.isSet(param):
            self._as_fitted(param.name, self._defaultParamMap.get(param))
        else:
            super().clear(param)

    def _as_fitted(self, name: str, value: Any) -> Any:
        """Return the value that `name` was fitted with; raise a ValueError if `value` differs."""
        fitted, requested = self._fixed[name]
        given = value if value is None else getattr(self, name).typeConverter(value)
        if given not in (fitted, requested):
            settable = sorted(
                param.name for param in self.params if param.name not in self._fit_params
            )
            raise ValueError(
                f"{name} cannot be changed on a fitted {type(self).__name__}: it was fitted with "
                f"{fitted!r}, got {given!r}. Set it on the estimator and fit again. Params that "
                f"can be set on a fitted model: {', '.join(settable)}"
            )
        return fitted
