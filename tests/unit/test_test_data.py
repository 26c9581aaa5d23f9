"""Random data of tests: the same in a whole run and in a test that is run alone."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("attempt", [1, 2])
def test_rng_is_fresh_for_each_test(rng: np.random.Generator, attempt: int) -> None:
    assert rng.integers(1 << 30) == np.random.default_rng(20).integers(1 << 30)


def test_no_module_holds_a_generator() -> None:
    """What a test draws from such a generator depends on the tests that ran before it."""
    found = []
    for path in sorted(TESTS.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
                called = ast.unparse(node.value.func)
                if called.endswith(("default_rng", "RandomState")):
                    found.append(f"{path.relative_to(TESTS)}:{node.lineno}")
    assert found == [], "use the fixture `rng`, or a generator inside of a function"
