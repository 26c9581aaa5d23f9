"""A store of MLflow in a temporary folder, and answers to compare with those of pyfunc."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark.ml import Transformer
    from pyspark.sql import DataFrame


@contextlib.contextmanager
def store_in(folder: Path) -> Iterator[None]:
    """Let MLflow write files to `folder`: mlflow-skinny has no packages for a database."""
    import mlflow

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        patch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        patch.setenv("MLFLOW_DFS_TMP", str(folder / "spark"))
        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri((folder / "runs").as_uri())
        yield
        mlflow.set_tracking_uri(before)


def answers_of(
    model: Transformer, queries: DataFrame, order_by: str | None = None
) -> dict[str, list[Any]]:
    """The columns that the model adds to the queries, with lists in place of vectors."""
    answers = model.transform(queries)
    rows = (answers if order_by is None else answers.orderBy(order_by)).collect()
    added = [name for name in answers.columns if name not in queries.columns]
    return {name: [_plain(row[name]) for row in rows] for name in added}


def _plain(value: Any) -> Any:
    return value.toArray().tolist() if hasattr(value, "toArray") else value
