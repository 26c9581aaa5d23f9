"""The examples in the docstrings of the package."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import pyspark_knn

OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def _examples() -> list[doctest.DocTest]:
    names = [each.name for each in pkgutil.walk_packages(pyspark_knn.__path__, "pyspark_knn.")]
    found = [
        test
        for name in names
        for test in doctest.DocTestFinder().find(importlib.import_module(name))
    ]
    return [test for test in found if test.examples]


@pytest.mark.parametrize("example", _examples(), ids=lambda test: test.name)
def test_docstring(example: doctest.DocTest, request: pytest.FixtureRequest) -> None:
    if "spark" in example.docstring:
        example.globs["spark"] = request.getfixturevalue("spark")
    said: list[str] = []
    doctest.DocTestRunner(optionflags=OPTIONS).run(example, out=said.append)
    assert not said, "".join(said)


def test_there_are_examples() -> None:
    assert len(_examples()) >= 2
