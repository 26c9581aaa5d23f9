"""The examples run from end to end, and print what they found in real data.

The quickstart gets an interpreter of its own, as `make demo` starts it. The others run one after
another in one interpreter, which saves the start of a JVM for each. The scripts of the gallery also
share a session, as they do when the documentation is built.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.sessions import QUICK_JAVA

FOLDER = Path(__file__).parents[1] / "examples"
FOUND = {
    "quickstart": [
        "Germany is most similar to\n     0.20  Belgium, Europe",
        "the same answer for all 142 countries",
    ],
    "imputing": [
        "1,629 people: 283 values are missing, 1,482 were knocked out",
        "\nwt82            16.9     11.0                             11.2\n",
        "40.0 176.9  72.1         75.1\n",
    ],
    "matching_records": [
        "400 records, sparse because items store 47.7 of 262,144 values",
        "\n        0.5      396      1.000   0.990\n",
    ],
    "matching_treated": [
        "185 treated, 15,992 untreated, caliper 0.66",
        "\nnot matched             -8,498\n",
        " 150 pairs with 150 untreated people\nthe experiment           1,794\n",
    ],
    "near_duplicates": [
        "5,000 records of 2,000 people: 6,538 pairs to find",
        "\n        0.5     6,023      1.000   0.921     6,377      0.999   0.974   2,055\n",
    ],
    "nearest_airports": [
        "  LUX  no other airport\n  NRT    46.4 km  IBR, Hyakuri Airport (JP)",
        "\n  SIN    29.0 km  BTH, Hang Nadim Airport (ID)\n         48.4 km  JHB, Senai",
    ],
    "outliers": [
        "  tumor 152  factor 2.78  benign\n  tumor  23  factor 2.26  malignant\n",
        "  area under the ROC curve  0.9531\n  scikit-learn's            0.9531\n",
        "  area under the ROC curve  0.9511\n  scikit-learn's            0.9511\n",
    ],
    "tuning": [
        "scikit-learn computes the same 32 accuracies on the same folds",
        "the same as scikit-learn's",
    ],
}
GALLERY = {
    "classify_a_stream": ["797 images arrived, 34 of them were misclassified"],
    "decision_boundary": [],
    "impute_survey": ["wt82                          0.98                    0.68"],
    "matching_names": ["storage: items store 47.7 of 262,144 values on average"],
    "near_duplicates_in_groups": ["1534 records, 2044 pairs"],
    "nearest_airports_map": ["|   1| NCY|     FR|34.0|", "|   1| QLS|     CH| 52.0|"],
    "nightly_append": ["1400 items, accuracy 0.970"],
    "outlier_tumors": ["31 outliers, of which 17 are malignant"],
    "recommend_from_als": ["640 planes, 95 destinations", "N525UA flew to SFO, LAX; next: SEA"],
    "regression_curve": [],
    "similar_images": [],
    "tune_k_and_weights": ["best: k=5, weights="],
}
TOGETHER = [name for name in FOUND if name != "quickstart"]
RUN = """
import runpy, sys
paths, sys.argv[1:] = sys.argv[1:], []
for path in paths:
    print(f"\\nscript {path}", flush=True)
    runpy.run_path(path, run_name="__main__")
"""
# Agg draws a figure only when it is saved, and warns that it has no window to show it in.
RUN_GALLERY = f"""
import io
import matplotlib
matplotlib.use("Agg")
from matplotlib import pyplot

def show():
    pyplot.savefig(io.BytesIO(), format="png", dpi=50)
    print("a picture")
    pyplot.close("all")

pyplot.show = show
{RUN}"""
NO_UI = "--conf spark.ui.enabled=false --conf spark.ui.showConsoleProgress=false pyspark-shell"


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


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    scripts = [FOLDER / f"{name}.py" for name in TOGETHER]
    return run_together(tmp_path_factory.mktemp("examples"), RUN, scripts)


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    scripts = [FOLDER / "gallery" / f"{name}.py" for name in GALLERY]
    settings = {"PYSPARK_PYTHON": sys.executable, "PYSPARK_SUBMIT_ARGS": NO_UI}
    folder = tmp_path_factory.mktemp("gallery")
    # Some scripts leave their files in the temporary folder.
    return run_together(folder, RUN_GALLERY, scripts, TMPDIR=str(folder), **settings)


def test_every_example_is_run() -> None:
    assert sorted(FOUND) == sorted(path.stem for path in FOLDER.glob("*.py"))
    assert sorted(GALLERY) == sorted(path.stem for path in FOLDER.glob("gallery/*.py"))


def test_the_scripts_of_the_gallery_are_short() -> None:
    for path in FOLDER.glob("gallery/*.py"):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) < 80, f"{path.name} has {len(lines)} lines"


@pytest.mark.slow
def test_the_quickstart_prints_what_it_found(tmp_path: Path) -> None:
    printed = run(tmp_path, str(FOLDER / "quickstart.py"))
    for each in FOUND["quickstart"]:
        assert each in printed


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", TOGETHER)
def test_an_example_prints_what_it_found(name: str, outputs: dict[str, str]) -> None:
    for each in FOUND[name]:
        assert each in outputs[name]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", GALLERY)
def test_a_script_of_the_gallery_draws_a_picture(name: str, gallery: dict[str, str]) -> None:
    for each in [*GALLERY[name], "a picture"]:
        assert each in gallery[name]
