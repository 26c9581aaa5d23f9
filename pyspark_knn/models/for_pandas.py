"""A Spark model that takes and returns pandas DataFrames, as tools that serve models require."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_object_dtype
from pyspark.ml import PipelineModel, Transformer
from pyspark.ml.functions import array_to_vector, vector_to_array
from pyspark.ml.linalg import Vector, VectorUDT
from pyspark.sql import Column, DataFrame, SparkSession

from pyspark_knn.engine.rows.columns import column
from pyspark_knn.engine.spark import compat


class PandasModel:
    """A Spark model that takes and returns pandas DataFrames.

    Parameters
    ----------
    session : SparkSession
        The session that transforms the queries.
    model : Transformer
        A fitted model, or a `PipelineModel`.
    output_cols : list of str or str, optional
        The columns to return, or the name of one to return as a Series. Default: all columns that
        the last stage adds.
    vectors : sequence of str, optional
        The columns of the queries to convert to vectors.
    """

    def __init__(
        self,
        session: SparkSession,
        model: Transformer,
        output_cols: list[str] | str | None = None,
        vectors: Sequence[str] = (),
    ) -> None:
        stages = model.stages if isinstance(model, PipelineModel) else [model]
        self._session = session
        self._model = model
        self._before = PipelineModel(stages[:-1])
        self._last = stages[-1]
        self._output_cols = output_cols
        self._vectors = vectors

    def get_raw_model(self) -> Transformer:
        """Return the Spark model."""
        return self._model

    def predict(
        self, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame | pd.Series[Any]:
        """Return the answers, in the order and with the index of the queries.

        Parameters
        ----------
        model_input : pandas.DataFrame
            The queries.
        params : dict, optional
            Ignored; MLflow passes it.

        Returns
        -------
        pandas.DataFrame or pandas.Series
            One row for each query, except for those that the model drops.

        Raises
        ------
        TypeError
            If `model_input` is not a pandas DataFrame.
        ValueError
            If there are no columns to return, or if the model drops columns of the queries.
        """
        row = f"knn_row_{uuid.uuid4().hex}"
        given = in_python("model_input", model_input).assign(**{row: range(len(model_input))})
        queries = self._session.createDataFrame(given)
        for name in self._vectors:
            queries = queries.withColumn(name, array_to_vector(column(name)))
        before = self._before.transform(queries)
        answers = self._last.transform(before)
        if row not in answers.columns:
            raise ValueError(
                "the model drops columns, so its answers cannot be matched to the queries. Write "
                "SELECT * in each SQLTransformer, and set output_cols."
            )
        outputs = self._outputs(before, answers)
        found = answers.select(row, *(_without_vectors(answers, name) for name in outputs))
        rows = sorted(compat.collect(found), key=lambda each: each[row])
        index = model_input.index[[each[row] for each in rows]]
        table = pd.DataFrame({name: [each[name] for each in rows] for name in outputs}, index)
        return table[self._output_cols] if isinstance(self._output_cols, str) else table

    def _outputs(self, before: DataFrame, answers: DataFrame) -> list[str]:
        added = [name for name in answers.columns if name not in before.columns]
        given = self._output_cols
        outputs = added if given is None else [given] if isinstance(given, str) else given
        if unknown := [name for name in outputs if name not in answers.columns]:
            raise ValueError(f"output_cols {unknown} do not exist. The last stage adds {added}.")
        if not outputs:
            raise ValueError("the last stage adds no column, so output_cols must be set")
        return outputs


def in_python(argument: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Return a DataFrame with lists of Python's numbers in place of vectors and arrays.

    MLflow cannot save vectors, and Spark 3.5 does not know the types of numpy in lists.

    Parameters
    ----------
    argument : str
        The name of the argument, for the message of an error.
    frame : pandas.DataFrame
        The DataFrame to convert.

    Returns
    -------
    pandas.DataFrame
        A new DataFrame, whose column names are strings.

    Raises
    ------
    TypeError
        If `frame` is not a pandas DataFrame.
    """
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"{argument} must be a pandas DataFrame, got {type(frame).__name__}")
    columns = {str(name): frame[name] for name in frame.columns}
    return pd.DataFrame(
        {
            name: values.map(_in_python) if is_object_dtype(values.dtype) else values
            for name, values in columns.items()
        }
    )


def _in_python(value: Any) -> Any:
    if isinstance(value, Vector):
        return value.toArray().tolist()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list):
        return [each.item() if isinstance(each, np.generic) else each for each in value]
    return value


def _without_vectors(frame: DataFrame, name: str) -> Column:
    is_vector = isinstance(frame.schema[name].dataType, VectorUDT)
    return vector_to_array(column(name)).alias(name) if is_vector else column(name)
