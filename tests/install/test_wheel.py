"""The wheel does not change the Spark of an environment, whichever kind it is."""

from __future__ import annotations

import re
import subprocess
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pyspark
import pytest

from tests.support.servers import ROOT, environment, python_without
from tests.support.wheels import build_wheel, packages, pip

MAJOR = int(pyspark.__version__.split(".")[0])

IMPORT_ALL = """
import importlib, importlib.util, pkgutil, pyspark_knn

assert "site-packages" in pyspark_knn.__file__, pyspark_knn.__file__
assert pyspark_knn.__version__[0].isdigit() and "unknown" not in pyspark_knn.__version__
for name in pyspark_knn.__all__:
    getattr(pyspark_knn, name)
for module in pkgutil.walk_packages(pyspark_knn.__path__, "pyspark_knn."):
    if module.name != "pyspark_knn.mlflow" or importlib.util.find_spec("mlflow"):  # an extra
        importlib.import_module(module.name)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


def _run(python: Path, code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(python), "-c", code],
        cwd=folder,
        env=environment(python),
        capture_output=True,
        text=True,
        timeout=120,
    )


def _install_alone(python: Path, wheel: Path) -> None:
    """Install the wheel, and check that no other package was added, changed or removed."""
    before = packages(python)
    pip(python, "install", "--no-index", str(wheel))
    after = packages(python)
    (added,) = set(after) - set(before)
    assert added.replace("-", "_") == "pyspark_knn"
    assert {name: after[name] for name in before} == before


def test_with_pyspark(wheel: Path, tmp_path: Path) -> None:
    """With the version of Spark that runs these tests, such as 3.5."""
    python = python_without(tmp_path / "whole")
    assert packages(python)["pyspark"] == pyspark.__version__
    _install_alone(python, wheel)
    done = _run(python, IMPORT_ALL, tmp_path)
    assert done.returncode == 0, done.stderr
    # The packages of the extra are installed already.
    pip(python, "install", "--no-index", f"{wheel}[spark]")


@pytest.mark.skipif(MAJOR < 4, reason="pyspark-client came with Spark 4.0")
def test_with_pyspark_client(wheel: Path, tmp_path: Path) -> None:
    python = python_without(tmp_path / "client", "pyspark", "py4j")
    pip(python, "install", "--no-deps", f"pyspark-client<={pyspark.__version__}")
    _install_alone(python, wheel)
    assert "pyspark" not in packages(python)
    done = _run(python, IMPORT_ALL, tmp_path)
    assert done.returncode == 0, done.stderr


def test_without_pyspark(wheel: Path, tmp_path: Path) -> None:
    python = python_without(tmp_path / "nothing", "pyspark", "py4j")
    _install_alone(python, wheel)
    for code in ("import pyspark_knn", "from pyspark_knn import KNNEstimator"):
        done = _run(python, code, tmp_path)
        assert done.stderr.splitlines()[-1] == (
            "ModuleNotFoundError: pyspark_knn requires PySpark, which is not installed. Run pip "
            "install 'pyspark_knn[spark]', or install pyspark-client or databricks-connect for "
            "Spark Connect."
        )
    with pytest.raises(AssertionError, match=r"No matching distribution found for pyspark>=3\.5"):
        pip(python, "install", "--no-index", f"{wheel}[spark]")


def test_the_empty_folders_of_an_uninstalled_pyspark(wheel: Path, tmp_path: Path) -> None:
    """Uninstalling pyspark beside pyspark-client leaves folders that can be imported."""
    python = python_without(tmp_path / "emptied", "pyspark", "py4j")
    pip(python, "install", "--no-index", "--no-deps", str(wheel))
    (site,) = (tmp_path / "emptied").glob("lib/python*/site-packages")
    (site / "pyspark" / "sql").mkdir(parents=True)
    done = _run(python, "import pyspark_knn", tmp_path)
    assert "requires PySpark, which is not installed" in done.stderr.splitlines()[-1]


def test_an_old_pyspark_is_named_in_the_error(wheel: Path, tmp_path: Path) -> None:
    python = python_without(tmp_path / "whole")
    pip(python, "install", "--no-index", "--no-deps", str(wheel))
    pretend = "import pyspark; pyspark.__version__ = '3.4.3'; from pyspark_knn import KNNModel"
    done = _run(python, pretend, tmp_path)
    assert done.stderr.splitlines()[-1] == (
        "ImportError: pyspark_knn requires Spark 3.5 or later, but pyspark 3.4.3 is installed"
    )


def test_the_requirements_of_a_clone_are_complete() -> None:
    assert "pyspark>=3.5" in (ROOT / "requirements.txt").read_text().split()


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith("/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def test_the_description_has_links_that_work_on_a_package_index(metadata: Message) -> None:
    links = re.findall(r"\]\(([^)]*)\)", str(metadata.get_payload()))
    version = re.escape(metadata["Version"])
    files = [re.search(rf"/(?:blob|raw)/v{version}/([^#]*)", link) for link in links]
    assert len([each for each in files if each]) > 20
    assert all((ROOT / each[1]).exists() for each in files if each)
    assert [link for link in links if not link.startswith("https://")] == []


def test_the_metadata(metadata: Message) -> None:
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Author"]
    assert metadata["Author-email"]
    labels = {each.split(",")[0] for each in metadata.get_all("Project-URL", [])}
    assert labels == {"Homepage", "Documentation", "Changelog", "Issues"}
    assert "Programming Language :: Python :: 3.14" in metadata.get_all("Classifier", [])
    assert set(metadata.get_all("Provides-Extra", [])) >= {"spark", "connect"}
