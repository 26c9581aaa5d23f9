"""Items that exceed both maxResultSize and the memory of the driver's Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.small_driver import ROWS, STEP

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@pytest.mark.timeout(900)
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits memory as Linux does")
def test_the_driver_holds_no_vectors(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "tests.support.small_driver", str(tmp_path)]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=880, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    expected = [(i, i, 0.0) for i in range(7, ROWS, STEP)]
    assert ended.stdout.splitlines() == [str(expected)] * 2
