"""The base class of all Params of this package."""

from __future__ import annotations

from typing import Any, TypeVar

from pyspark_knn.display import Shown

Self_ = TypeVar("Self_", bound="CheckedParams")


class CheckedParams(Shown):
    """Params that accept None as "unset" only if their converter allows it."""

    def _set(self: Self_, **kwargs: Any) -> Self_:
        # pyspark stores an explicit None unchecked, which then fails when a saved stage is loaded.
        for name, value in kwargs.items():
            if value is None:
                kwargs[name] = getattr(self, name).typeConverter(None)
        super()._set(**kwargs)
        return self
