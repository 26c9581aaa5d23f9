"""The wheel of this checkout, and environments to install it in."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.servers import ROOT

_SOURCES = ("setup.py", "pyproject.toml", "requirements.txt", "MANIFEST.in", "README.md", "LICENSE")


def build_wheel(folder: Path) -> Path:
    """Build the wheel in `folder` without changing the checkout."""
    source = folder / "source"
    shutil.copytree(
        ROOT / "pyspark_knn",
        source / "pyspark_knn",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    for name in _SOURCES:
        shutil.copy(ROOT / name, source / name)
    pip(Path(sys.executable), "wheel", "--no-deps", "--wheel-dir", str(folder), str(source))
    (wheel,) = folder.glob("pyspark_knn-*.whl")
    return wheel


def pip(python: Path, *arguments: str) -> str:
    """Run the pip of an environment and return its output; raise with the output on failure."""
    command = [str(python), "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def packages(python: Path) -> dict[str, str]:
    """Name -> version of the installed packages."""
    return {
        each["name"]: each["version"]
        for each in json.loads(pip(python, "list", "--format", "json"))
    }
