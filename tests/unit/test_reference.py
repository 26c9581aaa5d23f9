"""The API reference shows every public member, estimators before their models."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from pathlib import Path

import pytest

import pyspark_knn

DOCS = Path(__file__).parents[2] / "docs"
sys.path.insert(0, str(DOCS / "_ext"))
import members  # noqa: E402

CLASSES = [name for name in pyspark_knn.__all__ if inspect.isclass(getattr(pyspark_knn, name))]


def listed() -> list[str]:
    """The names on the page of the reference, in their order."""
    return re.findall(r"^   (\w+)$", (DOCS / "reference.md").read_text(encoding="utf-8"), re.M)


def test_every_public_name_has_a_page() -> None:
    assert sorted(listed()) == sorted(pyspark_knn.__all__)


def test_every_function_of_mlflow_has_a_page() -> None:
    # Not imported, because MLflow is optional.
    module = ast.parse((Path(pyspark_knn.__file__).parent / "mlflow.py").read_text("utf-8"))
    names = [each.name for each in module.body if isinstance(each, ast.FunctionDef)]
    text = (DOCS / "reference.md").read_text("utf-8")
    shown = re.findall(r"^   mlflow\.(\w+)$", text, re.M)
    assert sorted(shown) == sorted(name for name in names if not name.startswith("_"))


def test_estimators_precede_their_models() -> None:
    order = listed()
    for name in order:
        model = {"KNNClassifier": "KNNClassificationModel", "KNNRegressor": "KNNRegressionModel"}
        model |= {"KNNEstimator": "KNNModel"}
        if (fitted := model.get(name, f"{name}Model")) in order:
            assert order.index(fitted) == order.index(name) + 1, name


@pytest.mark.parametrize("name", CLASSES)
def test_every_public_member_is_on_the_page(name: str) -> None:
    cls = getattr(pyspark_knn, name)
    shown = [member for names in members.groups(cls).values() for member in names]
    assert sorted(shown) == sorted(each for each in dir(cls) if not each.startswith("_"))


def test_members_are_in_their_groups() -> None:
    groups = members.groups(pyspark_knn.KNNModel)
    assert {"transform", "kneighborsJoin", "explainSearch", "append"} <= set(groups["Methods"])
    assert {"numItems", "ids"} <= set(groups["Attributes"])
    assert groups["Saving and loading"] == ["load", "read", "save", "write"]
    assert {"k", "maxDistance"} <= set(groups["Params"])
    assert {"getK", "setK"} <= set(groups["Getters and setters"])
    assert "fit" in members.groups(pyspark_knn.KNNEstimator)["Methods"]


@pytest.mark.parametrize("name", CLASSES)
def test_every_param_has_a_description(name: str) -> None:
    cls = getattr(pyspark_knn, name)
    for param in members.groups(cls)["Params"]:
        assert members.param_lines(cls, param)[0].endswith(".")
