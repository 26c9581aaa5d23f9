"""A type checker finds the mistakes in a user's script, and nothing in one without mistakes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from pyspark_knn import literals
from pyspark_knn.index.distances import METRICS
from pyspark_knn.index.lof import SCORES
from pyspark_knn.index.registry import _BUILT_IN
from pyspark_knn.index.votes import WEIGHTS

SCRIPTS = Path(__file__).parent.parent / "user_scripts"
ROOT = SCRIPTS.parent.parent


def lines_found(command: list[str]) -> dict[str, set[int]]:
    """Run a type checker on the scripts and return the lines with errors, by file."""
    done = subprocess.run(
        [sys.executable, "-m", *command, str(SCRIPTS)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found = re.findall(r"(\w+\.py):(\d+)(?::\d+)?(?: -|:) error", done.stdout)
    lines: dict[str, set[int]] = {"right.py": set(), "wrong.py": set()}
    for name, line in found:
        lines[name].add(int(line))
    return lines


def planted() -> set[int]:
    lines = (SCRIPTS / "wrong.py").read_text(encoding="utf-8").splitlines()
    return {i for i, line in enumerate(lines, 1) if line.endswith("# wrong")}


# mypy reuses what `make check`, which installs it, has cached. pyright needs Node.js, so no extra
# requires it: pip install pyright.
CHECKERS = {"mypy": [], "pyright": ["--pythonpath", sys.executable]}


@pytest.mark.parametrize("checker", CHECKERS)
def test_a_type_checker_finds_the_mistakes(checker: str) -> None:
    pytest.importorskip(checker, reason=f"{checker} is not installed")
    found = lines_found([checker, *CHECKERS[checker]])
    assert found == {"right.py": set(), "wrong.py": planted()}


def test_the_literals_are_the_values_that_are_allowed() -> None:
    assert get_args(literals.MetricName) == METRICS
    names = tuple(dict.fromkeys(entry.algorithm for entry in _BUILT_IN))
    assert get_args(literals.AlgorithmName) == ("auto", *names)
    assert set(get_args(literals.ExactAlgorithmName)) <= {"auto", *names}
    assert get_args(literals.WeightsName) == WEIGHTS
    assert get_args(literals.ScoreName) == SCORES
