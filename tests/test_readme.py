"""Every Python snippet of the pages below runs, in one namespace, and prints what the page shows.

A ``text`` block right behind a snippet is what that snippet prints.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

import pytest
from pyspark.ml import Pipeline
from pyspark.ml.tuning import ParamGridBuilder, TrainValidationSplit
from pyspark.sql import functions as F

from pyspark_knn import KNNEstimator, NeighborsEvaluator
from tests.support.mlflow import store_in
from tests.support.stages import common_frame

README = Path(__file__).parents[1] / "README.md"
DOCS = README.parent / "docs"
RECIPES = DOCS / "recipes.md"
GUIDE = ["first-search", "classification", "missing-values-and-outliers", "tuning"]
GUIDE += ["coming-from", "approximate", "serving"]
MLFLOW = DOCS / "mlflow.md"
PAGES = [README, RECIPES, MLFLOW, *(DOCS / f"{name}.md" for name in [*GUIDE, "sparse-data"])]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _snippets(page: Path) -> list[tuple[int, str, str]]:
    """The line, the code and the expected output of each snippet."""
    text = page.read_text(encoding="utf-8")
    blocks = list(BLOCK.finditer(text))
    snippets = []
    for block, after in zip(blocks, [*blocks[1:], None], strict=True):
        if block[1] != "python":
            continue
        line, shown = text.count("\n", 0, block.start(2)), ""
        if after is not None and after[1] == "text":
            between = text[block.end() : after.start()]
            shown = "" if between.strip() else after[2]
        snippets.append((line, block[2], shown))
    return snippets


def _trimmed(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip("\n").splitlines()]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_snippets(page: Path, spark: SparkSession, tmp_path: Path) -> None:
    namespace = {"spark": spark, "folder": tmp_path.as_uri()}
    with _store(page, tmp_path):
        for line, code, shown in _snippets(page):
            printed = io.StringIO()
            # Empty lines, so that line numbers in a traceback are those of the page.
            program = compile("\n" * line + code, str(page), "exec")
            with contextlib.redirect_stdout(printed):
                exec(program, namespace)
            assert _trimmed(printed.getvalue()) == _trimmed(shown), f"{page.name}, line {line}"


def _store(page: Path, folder: Path) -> contextlib.AbstractContextManager[None]:
    if page != MLFLOW:
        return contextlib.nullcontext()
    pytest.importorskip("mlflow")
    return store_in(folder)


def test_the_snippet_of_the_page_on_scaling(spark: SparkSession) -> None:
    page = DOCS / "scaling.md"
    (code,) = [block[2] for block in BLOCK.finditer(page.read_text()) if block[1] == "python"]
    names = (KNNEstimator, NeighborsEvaluator, ParamGridBuilder, Pipeline, TrainValidationSplit)
    namespace = {each.__name__: each for each in names}
    exec(code, namespace)
    tuned = namespace["tuned"]
    points = common_frame(spark).select("id", "features")
    model = tuned.getEstimator().fit(points)
    recalls = [
        tuned.getEvaluator().evaluate(model.transform(points, probes))
        for probes in tuned.getEstimatorParamMaps()
    ]
    # With all cells probed, no neighbor is missed.
    assert recalls == sorted(recalls)
    assert recalls[-1] == 1.0


def test_the_recipe_of_smote(spark: SparkSession) -> None:
    (code,) = [code for _, code, _ in _snippets(RECIPES) if "SEED" in code]
    shuffled = ".createDataFrame(iris.sample(frac=1, random_state=3)).repartition(5)"
    results = []
    for each in (code, code.replace(".createDataFrame(iris)", shuffled)):
        namespace = {"spark": spark, "F": F, "KNNEstimator": KNNEstimator}
        with contextlib.redirect_stdout(io.StringIO()):
            exec(each, namespace)
        results.append(namespace["synthetic"].orderBy("id", "copy").collect())
    assert results[0] == results[1], "the rows do not depend on the partitions"
    assert len(results[0]) == 40

    rare = {row.id: row.features.toArray() for row in namespace["rare"].collect()}
    for row in results[0]:
        a, b, point = rare[row.id], rare[row.b_id], row.features.toArray()
        others = sorted(math.dist(a, rare[each]) for each in rare if each != row.id)
        assert row.id != row.b_id
        assert math.dist(a, b) <= others[4]
        assert math.dist(a, point) + math.dist(point, b) == pytest.approx(math.dist(a, b))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_printing_snippet_shows_its_output(page: Path) -> None:
    for line, code, shown in _snippets(page):
        prints = "print(" in code or ".show(" in code
        assert prints == bool(shown), f"{page.name}, line {line}"


def test_links_lead_somewhere() -> None:
    for page in [README, *README.parent.glob("*.md"), *README.parent.glob("docs/*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
