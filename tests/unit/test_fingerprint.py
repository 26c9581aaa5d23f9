"""Keys of stages: equal for stages that do the same, and for no others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pyspark.ml import Transformer
from pyspark.ml.linalg import Matrices, Vectors
from pyspark.ml.param import Param, Params

from pyspark_knn.estimators.fingerprint import fingerprint


class Stage(Transformer):
    """Has one Param, of any value, and state beside it."""

    value: Param[Any] = Param(Params._dummy(), "value", "anything")

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(value=None)
        self.state: Any = None

    def _transform(self, dataset: Any) -> Any:
        return dataset


STAGE = Stage()


def key(value: Any) -> Any:
    return fingerprint(STAGE.copy({STAGE.value: value}))


class Silent:
    def __repr__(self) -> str:
        return "Silent"


def inner(value: Any) -> Stage:
    return STAGE.copy({STAGE.value: value})


ITSELF: list[Any] = []
ITSELF.append(ITSELF)
LONG = np.zeros(5000)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, True),
        (0.0, -0.0),
        (0.1, np.nextafter(0.1, 1)),
        ("1", 1),
        ([1], (1,)),
        (None, "None"),
        (Vectors.dense([1e-6]), Vectors.dense([1e-6 + 1e-15])),
        (Vectors.sparse(2, {0: 1e-6}), Vectors.sparse(2, {0: 1e-6 + 1e-15})),
        (Vectors.sparse(2, {0: 1.0}), Vectors.dense([1.0, 0.0])),
        (Matrices.dense(1, 2, [1, 2]), Matrices.dense(2, 1, [1, 2])),
        (LONG, np.where(np.arange(5000) == 2500, 1.0, LONG)),
        (LONG, LONG.astype(np.float32)),
        (np.array([1, 2]), np.array([[1, 2]])),
        ({"a": np.array([1.0])}, {"a": np.array([1.0 + 1e-12])}),
        (inner(1), inner(2)),
        ([inner([1.0])], [inner([1.0 + 1e-12])]),
        ({"a": [inner(inner(1))]}, {"a": [inner(inner(2))]}),
        (Silent(), Silent()),
        (np.array([Silent()]), np.array([Silent()])),
        (STAGE.value, STAGE),
    ],
)
def test_different_stages_have_different_keys(one: Any, other: Any) -> None:
    assert key(one) != key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (float("nan"), float("nan")),
        ([1, "a", b"b", None], [1, "a", b"b", None]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({1, 2}, {2, 1}),
        (Vectors.dense([1, 2]), Vectors.dense([1, 2])),
        (Matrices.sparse(1, 1, [0, 1], [0], [2]), Matrices.sparse(1, 1, [0, 1], [0], [2])),
        (np.arange(6).reshape(2, 3).T, np.array([[0, 3], [1, 4], [2, 5]])),
        (np.float32(1), np.float32(1)),
        (inner([1.0]), inner([1.0])),
        (len, len),
        (ITSELF, ITSELF),
    ],
)
def test_equal_stages_have_equal_keys(one: Any, other: Any) -> None:
    assert key(one) == key(other)
    assert hash(key(one)) == hash(key(other))


def test_a_set_param_is_not_a_default() -> None:
    assert fingerprint(STAGE) != key(None)
    assert fingerprint(STAGE, without={"value"}) == fingerprint(inner(3), without={"value"})


def test_state_outside_of_params() -> None:
    other = STAGE.copy()
    assert fingerprint(other) == fingerprint(STAGE)
    other.state = {"coefficients": np.array([1.0])}
    before = fingerprint(other)
    assert before != fingerprint(STAGE)
    other.state["coefficients"][0] += 1e-12
    assert fingerprint(other) != before
