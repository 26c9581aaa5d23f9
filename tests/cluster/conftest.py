"""Executors in their own processes: one local-cluster session for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.fixture(scope="session")
def spark_kind() -> str:
    return "cluster"


@pytest.fixture(scope="session")
def spark(spark_kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """Two executors of one core; the driver accepts at most 64 MiB of results at a time."""
    from tests.support.sessions import start

    session = start(
        spark_kind,
        tmp_path_factory.mktemp("warehouse"),
        spark__driver__maxResultSize="64m",
        # Executors run in other processes and import the tests' classes by this path.
        spark__executorEnv__PYTHONPATH=str(Path(__file__).parents[2]),
    )
    yield session
    session.stop()
