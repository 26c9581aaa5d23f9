"""The columns that items have in addition to their vectors. Independent of Spark."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

ID, KEY, NUMBER = "id", "key", "number"
"""The kinds of item columns."""


def key_name(number: int) -> str:
    """Return the name of the item column that contains the key column `number`, from 0."""
    return f"key{number}"


@dataclass(frozen=True)
class ItemColumn:
    """A column that every item has in addition to its vector.

    A stage lists its own in `_NeighborParams._item_columns`. From there on, a column is identified
    by its name: in packing, bundles, shards and saved models, and by the answers that need it.

    Attributes
    ----------
    name : str
        "id", "label", "weight", "key0" and so on. These names are taken: "position", "features",
        "distance", "key_hash", and those of the inputs of vectors, `vectors.VALUES` and
        `vectors.LAYOUT`.
    param, column : str
        The Param that names the DataFrame's column, and the name of that column.
    kind : {"id", "key", "number"}, default="number"
        What it contains: ids, of any atomic type; keys, of any atomic type but float and double; or
        finite numbers, as double. An item whose key is null is skipped.
    negative, fractional : bool, default=True
        Whether such numbers are allowed.
    finite : bool, default=True
        Whether NaN and infinity are refused. A null always is.
    """

    name: str
    param: str
    column: str
    kind: str = NUMBER
    negative: bool = True
    fractional: bool = True
    finite: bool = True

    @property
    def saved_types(self) -> tuple[str, ...]:
        """The types that are allowed in a saved model; empty if any type of ids is allowed."""
        return ("double",) if self.kind == NUMBER else ()

    def problem(self, values: pa.Array) -> str | None:
        """Return the error message for numbers, of type double; None if all are allowed."""
        numbers = values.to_numpy(zero_copy_only=False)
        with np.errstate(invalid="ignore"):
            bad = ~np.isfinite(numbers) if self.finite else values.is_null().to_numpy(False)
            bad |= False if self.negative else numbers < 0
            bad |= False if self.fractional else numbers != np.floor(numbers)
        if not bad.any():
            return None
        first = values[int(np.flatnonzero(bad)[0])].as_py()
        found = "a null" if first is None else repr(first)
        wanted = "finite" if self.fractional else "whole"
        least = "" if self.negative else " >= 0"
        return f"{self.param} {self.column!r} contains {found}. Use {wanted} numbers{least}."
