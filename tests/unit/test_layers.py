"""Imports go down only, and the index knows nothing of Spark: see docs/design.md."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyspark_knn

ROOT = Path(pyspark_knn.__file__).parent
FLOORS = {
    **dict.fromkeys(["index", "suggestions", "literals", "display"], 0),
    "engine": 1,
    **dict.fromkeys(["params", "persistence"], 2),
    **dict.fromkeys(["models", "imputer"], 3),
    **dict.fromkeys(["estimators", "interop"], 4),
}
STAGES = 5

WINGS = ["spark", "ship", "rows", "fit", "search", "shards"]
"""Of engine/, from the lowest up; the modules that are in none of them come on top."""

MODULES = sorted(ROOT.rglob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(("pyspark_knn", *path.relative_to(ROOT).with_suffix("").parts))


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def floor(module: str) -> int:
    return FLOORS.get(module.split(".")[1], STAGES)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_down(path):
    ours = [name for name in imported(path) if name.startswith("pyspark_knn.")]
    assert [name for name in ours if floor(name) > floor(name_of(path))] == []


def wing(module: str) -> int:
    name = module.split(".")[2]
    return WINGS.index(name) if name in WINGS else len(WINGS)


@pytest.mark.parametrize("path", sorted((ROOT / "engine").rglob("*.py")), ids=name_of)
def test_imports_within_the_engine_go_down(path):
    ours = [name for name in imported(path) if name.startswith("pyspark_knn.engine.")]
    assert [name for name in ours if wing(name) > wing(name_of(path))] == []


def test_a_model_knows_no_kind_of_placement():
    kinds = {"replicated", "sharded"}
    assert [
        name for name in imported(ROOT / "models" / "neighbors.py") if kinds & set(name.split("."))
    ] == []


def test_every_folder_has_a_floor():
    folders = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    assert folders <= set(FLOORS)


def test_every_folder_of_the_engine_is_a_wing():
    folders = {path.parent.name for path in (ROOT / "engine").rglob("*.py")}
    assert folders == {"engine", *WINGS}


@pytest.mark.parametrize(
    "path", [p for p in MODULES if ROOT / "index" in p.parents or p.stem == "bundle"], ids=name_of
)
def test_no_spark_below(path):
    assert [name for name in imported(path) if name.split(".")[0] == "pyspark"] == []


SEARCH = [name_of(path) for path in MODULES if path.parent.name == "search"]
PACK = [f"pyspark_knn.engine.{name}" for name in ("fit.packing", "fit.chunks", "shards.sampling")]


@pytest.mark.parametrize("module", [*SEARCH, *PACK, "pyspark_knn.engine.ship.udf"])
def test_workers_import_little(module):
    # Each of these takes tens of MiB of every Python worker, which does not need it to search or to
    # pack items. To build shards it does: they are hashed by pandas.
    heavy = ["pandas", "scipy", "sklearn", "pyspark.ml"]
    code = (
        f"import sys, {module}, pyspark_knn.index.block_search\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"


def test_the_plans_of_a_sharded_search_import_each_other_one_way():
    folder = ROOT / "engine" / "shards"
    paths = {name_of(path): path for path in [*folder.glob("*plan.py"), folder / "searching.py"]}
    needs = {name: {of for of in paths if of in stems(path)} for name, path in paths.items()}
    while needs:
        lowest = {name for name, of in needs.items() if not of}
        assert lowest, f"in a circle: {sorted(needs)}"
        needs = {name: of - lowest for name, of in needs.items() if name not in lowest}


def stems(path: Path) -> set[str]:
    """The modules that a module imports names from."""
    return {name.rpartition(".")[0] for name in imported(path)}
