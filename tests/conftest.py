"""Fixtures and options of all tests: one Spark session, of the kind that --spark names."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# Workers run the interpreter of the tests, not the python3 on PATH. Set before any JVM starts.
os.environ.setdefault("PYSPARK_PYTHON", sys.executable)

KINDS = ("local", "cluster", "connect")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--spark",
        choices=KINDS,
        default="local",
        help="where the tests run: local[2], local-cluster[2,1,2048], or a Spark Connect server",
    )
    parser.addoption(
        "--sharded",
        action="store_true",
        help="shard every index whose placement is not set; skip tests of replicated placement",
    )
    parser.addoption(
        "--sparse",
        action="store_true",
        help="store vectors sparse, of whatever share, wherever storage is not set and allows it",
    )


def pytest_configure(config: pytest.Config) -> None:
    # pytest-xdist starts the files with the most tests first, so that a long file with few tests
    # could be the last: in the order of names, the quick ones of tests/unit are.
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for option, marker in (("--sharded", "replicated"), ("--sparse", "dense")):
        if config.getoption(option):
            skip = pytest.mark.skip(reason=f"about an index that is {marker}")
            for item in items:
                if item.get_closest_marker(marker):
                    item.add_marker(skip)


@pytest.fixture(scope="session", autouse=True)
def _sharded(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--sharded"):
        from pyspark_knn.engine import placing

        placing.AUTO_BYTES = 0


@pytest.fixture(scope="session", autouse=True)
def _sparse(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--sparse"):
        from pyspark_knn.engine import storing

        storing.MIN_FEATURES = 0
        storing.SPARSE_SHARE = 0


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed, so that a test run alone gets the data of a whole run."""
    return np.random.default_rng(20)


@pytest.fixture(scope="session")
def spark_kind(request: pytest.FixtureRequest) -> str:
    """One of KINDS; a process can have only one of them."""
    return str(request.config.getoption("--spark"))


@pytest.fixture(scope="session")
def spark(spark_kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """The Spark session that all tests share."""
    from tests.support.sessions import start

    session = start(spark_kind, tmp_path_factory.mktemp("warehouse"))
    yield session
    session.stop()
