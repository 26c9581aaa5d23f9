"""The examples run from end to end, and print what they found in real data.

The quickstart gets an interpreter of its own, as `make demo` starts it. The others run one after
another in one interpreter, which saves the start of a JVM for each.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.scripts import RUN, run, run_together

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
TOGETHER = [name for name in FOUND if name != "quickstart"]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    scripts = [FOLDER / f"{name}.py" for name in TOGETHER]
    return run_together(tmp_path_factory.mktemp("examples"), RUN, scripts)


def test_every_example_is_run() -> None:
    assert sorted(FOUND) == sorted(path.stem for path in FOLDER.glob("*.py"))


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
