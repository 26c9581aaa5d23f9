"""The version of the package, and that the workflows run what the Makefile has."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest

import pyspark_knn

ROOT = Path(__file__).parents[2]


def test_the_version_is_the_one_of_the_installed_package() -> None:
    assert pyspark_knn.__version__ == metadata.version("pyspark_knn")
    assert "__version__" in dir(pyspark_knn)


def test_a_copy_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert pyspark_knn._version() == "0+unknown"


@pytest.mark.skipif(not (ROOT / ".github").exists(), reason="not a clone")
def test_workflows_run_only_what_runs_anywhere() -> None:
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    files = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    commands = [each for path in files for each in re.findall(r"- run: (.*)", path.read_text())]
    assert ".ci/run" in commands
    for command in commands:
        program, *words = command.split()
        assert (ROOT / program).exists() or (program == "make" and words[0] in targets), command
