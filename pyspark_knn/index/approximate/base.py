"""The interface of an approximate index (a stand-in until the real one is merged)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pyspark_knn.index.base import DENSE, IndexSpec, NeighborIndex

if TYPE_CHECKING:
    from numpy.typing import NDArray

Self_ = TypeVar("Self_", bound="ApproximateIndex")


class ApproximateIndex(NeighborIndex):
    exact: ClassVar[bool] = False
    storage: ClassVar[str] = DENSE
    library: ClassVar[str] = "faiss"
    index_names: ClassVar[dict[str, Any]] = {}
    search_name: ClassVar[str] = ""
    worth_saving: ClassVar[bool] = True

    @property
    def exact_index(self) -> NeighborIndex:
        raise NotImplementedError

    def with_knob(self: Self_, value: int) -> Self_:
        raise NotImplementedError

    @property
    def knob(self) -> int:
        raise NotImplementedError

    def knob_levels(self) -> list[int]:
        raise NotImplementedError

    def held_out(self, positions: NDArray[Any]) -> ApproximateIndex:
        return self

    def extended(self, matrix: Any, old_positions: NDArray[Any]) -> ApproximateIndex:
        raise NotImplementedError

    def structure(self) -> dict[str, NDArray[Any]]:
        raise NotImplementedError

    @classmethod
    def restored(
        cls: type[Self_], matrix: Any, spec: IndexSpec, structure: dict[str, NDArray[Any]]
    ) -> Self_:
        raise NotImplementedError
