"""Running scripts in an interpreter of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.sessions import QUICK_JAVA

RUN = """
import runpy, sys
paths, sys.argv[1:] = sys.argv[1:], []
for path in paths:
    print(f"\\nscript {path}", flush=True)
    runpy.run_path(path, run_name="__main__")
"""
"""A program that runs scripts one after another, which saves the start of a JVM for each."""


def run(folder: Path, *arguments: str, **settings: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "JAVA_TOOL_OPTIONS": QUICK_JAVA, **settings},
        capture_output=True,
        text=True,
        timeout=540,
    )
    assert done.returncode == 0, done.stderr
    assert "UserWarning" not in done.stderr, done.stderr
    return done.stdout


def run_together(
    folder: Path, program: str, scripts: Sequence[Path], **settings: str
) -> dict[str, str]:
    """What each script prints."""
    printed = run(folder, "-c", program, *map(str, scripts), **settings)
    parts = printed.split("\nscript ")[1:]
    return {path.stem: part for path, part in zip(scripts, parts, strict=True)}
