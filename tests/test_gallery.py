"""The scripts of the gallery run from end to end, and draw a picture.

They run one after another in one session, as they do when the documentation is built.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.scripts import RUN, run_together

FOLDER = Path(__file__).parents[1] / "examples" / "gallery"
FOUND = {
    "classify_a_stream": ["797 images arrived, 34 of them were misclassified"],
    "decision_boundary": [],
    "impute_survey": ["wt82                          0.98                    0.68"],
    "matching_names": ["storage: items store 47.7 of 262,144 values on average"],
    "near_duplicates_in_groups": ["1534 records, 2044 pairs"],
    "nearest_airports_map": ["|   1| NCY|     FR|34.0|", "|   1| QLS|     CH| 52.0|"],
    "nightly_append": ["1400 items, accuracy 0.970"],
    "outlier_tumors": ["31 outliers, of which 17 are malignant"],
    "recall_against_speed": ["ivf {'nprobe': 32}: recall 0.99"],
    "recommend_from_als": ["640 planes, 95 destinations", "N525UA flew to SFO, LAX; next: SEA"],
    "regression_curve": [],
    "similar_images": [],
    "tune_k_and_weights": ["best: k=5, weights="],
}
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


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    scripts = [FOLDER / f"{name}.py" for name in FOUND]
    settings = {"PYSPARK_PYTHON": sys.executable, "PYSPARK_SUBMIT_ARGS": NO_UI}
    folder = tmp_path_factory.mktemp("gallery")
    # Some scripts leave their files in the temporary folder.
    return run_together(folder, RUN_GALLERY, scripts, TMPDIR=str(folder), **settings)


def test_every_script_is_run() -> None:
    assert sorted(FOUND) == sorted(path.stem for path in FOLDER.glob("*.py"))


def test_the_scripts_are_short() -> None:
    for path in FOLDER.glob("*.py"):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) < 80, f"{path.name} has {len(lines)} lines"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", FOUND)
def test_a_script_draws_a_picture(name: str, outputs: dict[str, str]) -> None:
    for each in [*FOUND[name], "a picture"]:
        assert each in outputs[name]
