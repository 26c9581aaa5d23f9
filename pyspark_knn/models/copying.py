"""Copying and pickling of fitted models."""

from __future__ import annotations

from typing import Any, NoReturn, SupportsIndex, TypeVar

from pyspark.ml import Model

Self_ = TypeVar("Self_", bound="SharedIndex")


class SharedIndex(Model):
    """A model whose copies share one index, and which cannot be pickled.

    The index belongs to a Spark session. Without this class, pickle's error message would name a
    lock or the SparkContext instead of the model.
    """

    def __copy__(self: Self_) -> Self_:
        # copy.copy() would call __reduce_ex__.
        copied = type(self).__new__(type(self))
        copied.__dict__.update(self.__dict__)
        return copied

    def __deepcopy__(self: Self_, memo: dict[int, Any]) -> Self_:
        return self.copy()

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        name = type(self).__name__
        raise TypeError(
            f"{name} cannot be pickled or captured in a UDF, because its index belongs to a "
            "Spark session. Call model.transform(queries) instead of using a UDF. To use the model "
            "in another process, save it with model.save(path) and load it there with "
            f"{name}.load(path)."
        )
