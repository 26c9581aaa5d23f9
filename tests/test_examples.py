"""The examples run from end to end, each in its own interpreter, as a user starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.sessions import QUICK_JAVA

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
def test_runs(script: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env={**os.environ, "JAVA_TOOL_OPTIONS": QUICK_JAVA},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "UserWarning" not in done.stderr, done.stderr
    if script.stem == "quickstart":
        assert "Germany is most similar to\n     0.20  Belgium, Europe" in done.stdout
        assert "the same answer for all 142 countries" in done.stdout
    if script.stem == "matching_records":
        assert "400 records, sparse because items store 47.7 of 262,144 values" in done.stdout
        assert "\n        0.5      396      1.000   0.990\n" in done.stdout
    if script.stem == "tuning":
        assert "scikit-learn computes the same 32 accuracies on the same folds" in done.stdout
        assert "the same as scikit-learn's" in done.stdout
