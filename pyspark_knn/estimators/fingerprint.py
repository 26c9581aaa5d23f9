"""Keys of stages: two stages with equal keys are interchangeable."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Hashable
from typing import Any

import numpy as np
from pyspark.ml.linalg import DenseMatrix, DenseVector, SparseMatrix, SparseVector
from pyspark.ml.param import Param, Params

_PLAIN = (type(None), bool, int, str, bytes)
_LINALG = (DenseVector, SparseVector, DenseMatrix, SparseMatrix)
_BOOKKEEPING = frozenset({"uid", "_params", "_paramMap", "_defaultParamMap", "_java_obj"})
"""Attributes that are compared elsewhere. Each copy of a stage has a new Java object, whose state
is that of the Params."""


class _Identity:
    """A key that equals only keys of the same object.

    It keeps the object alive, so that its id is not reused.
    """

    def __init__(self, value: object) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and other._value is self._value

    def __hash__(self) -> int:
        return id(self._value)


def fingerprint(stage: Params, without: Collection[str] = ()) -> Hashable:
    """Return the key of a stage: its uid, its Params and its other attributes.

    Values are compared exactly. Stages within a stage are compared by their own Params. An object
    of a type that is not handled here equals only itself.

    Parameters
    ----------
    stage : Params
        An estimator, a transformer or a model. The keys of two models that one estimator fitted in
        separate fits may be equal although the models differ: coefficients are in the JVM.
    without : collection of str
        Names of the Params to ignore.

    Returns
    -------
    hashable
        The key.
    """
    return _stage_key(stage, frozenset(), without)


def _stage_key(
    stage: Params, within: frozenset[int], without: Collection[str] = ()
) -> tuple[Hashable, ...]:
    params = {
        param.name: (stage.isSet(param), value)
        for param, value in stage.extractParamMap().items()
        if param.name not in without
    }
    state = {
        name: value
        for name, value in dict(vars(stage)).items()
        if name not in _BOOKKEEPING and not isinstance(value, Param)
    }
    return type(stage), stage.uid, _key(params, within), _key(state, within)


def _key(value: Any, within: frozenset[int]) -> Hashable:
    """Return the key of a value; `within` holds the ids of the objects that contain it."""
    kind = type(value)
    if kind in _PLAIN:
        return kind, value
    if kind is float:
        return kind, value.hex()  # 0.0 differs from -0.0, and NaN equals NaN
    if isinstance(value, (np.generic, np.ndarray)) and not value.dtype.hasobject:
        # A digest, so that the key does not keep a copy of a large array.
        content = hashlib.sha256(np.ascontiguousarray(value).tobytes()).digest()
        return kind, repr(value.dtype), value.shape, content
    if kind in _LINALG:
        return kind, value.__reduce__()[1]  # the bytes of its arrays
    if isinstance(value, Param):
        return Param, value.parent, value.name
    if id(value) in within:
        return _Identity(value)
    within |= {id(value)}
    if isinstance(value, Params):
        return _stage_key(value, within)
    if kind in (list, tuple):
        return kind, tuple(_key(each, within) for each in value)
    if kind is dict:
        pairs = ((_key(name, within), _key(each, within)) for name, each in value.items())
        return kind, frozenset(pairs)
    if kind in (set, frozenset):
        return kind, frozenset(_key(each, within) for each in value)
    return _Identity(value)
