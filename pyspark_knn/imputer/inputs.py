"""What an imputer reads and writes, by its Params: which columns, and which rows are searched."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn.engine.rows import columns
from pyspark_knn.engine.rows.columns import Input
from pyspark_knn.engine.rows.features import Features
from pyspark_knn.engine.rows.vectors import LAYOUT, VALUES
from pyspark_knn.imputer.columns import InputColumns, NumericColumns, VectorColumn
from pyspark_knn.params.imputer import _ImputerParams


def named_columns(params: _ImputerParams) -> tuple[str, list[str], list[str]]:
    """Return the Param that names the input columns, these columns, and the output columns.

    Raises
    ------
    ValueError
        If not exactly one of the kinds of input columns is set, or the outputs do not suit it.
    """
    kinds = ("inputCols", "inputCol", "featuresCol")
    given = [name for name in kinds if params.getOrDefault(name) is not None]
    if len(given) != 1:
        values = ", ".join(f"{name}={params.getOrDefault(name)!r}" for name in given)
        raise ValueError(
            "exactly one of inputCols, inputCol and featuresCol must be set, got "
            f"{values or 'none of them'}. Set inputCols and outputCols for several numeric "
            "columns, inputCol and outputCol for one, or featuresCol and outputCol for a column of "
            "vectors."
        )
    (param,) = given
    several = param == "inputCols"
    wanted, other = ("outputCols", "outputCol") if several else ("outputCol", "outputCols")
    if params.getOrDefault(other) is not None:
        raise ValueError(f"{other} must be unset if {param} is set. Set {wanted} instead.")
    outputs = params.getOrDefault(wanted)
    if not outputs:
        raise ValueError(f"{wanted} must be set if {param} is set")
    inputs = params.getOrDefault(param)
    if not several:
        return param, [inputs], [outputs]
    if len(inputs) != len(outputs):
        raise ValueError(
            f"outputCols must have one column for each of inputCols {inputs!r}, got {outputs!r}"
        )
    return param, inputs, outputs


def columns_of(
    params: _ImputerParams, dataset: DataFrame, n_features: int | None = None
) -> InputColumns:
    """Return the columns of a DataFrame to impute.

    Parameters
    ----------
    params : _ImputerParams
        The estimator or the model.
    dataset : DataFrame
        The rows to impute.
    n_features : int, optional
        The number of features of a model.

    Raises
    ------
    TypeError, ValueError
        If the columns are not suitable, or if the number of columns has changed since the fit.
    """
    param, inputs, outputs = named_columns(params)
    missing_value = params.getMissingValue()
    if param == "featuresCol":
        return VectorColumn(dataset, inputs[0], outputs[0], missing_value)
    if n_features is not None and len(inputs) != n_features:
        raise ValueError(f"{param} must name the {n_features} features of the fit, got {inputs!r}")
    return NumericColumns(dataset, param, inputs, outputs, missing_value)


def check_outputs(params: _ImputerParams, dataset: DataFrame, indicators: Sequence[str]) -> None:
    """Check the names of the columns that a model adds to a DataFrame.

    Parameters
    ----------
    params : _ImputerParams
        The model.
    dataset : DataFrame
        The rows to impute.
    indicators : sequence of str
        The columns to add that tell where values were missing.

    Raises
    ------
    ValueError
        If an output column exists and does not replace its own input.
    """
    param, inputs, outputs = named_columns(params)
    fold = (lambda s: s) if columns.case_sensitive(dataset) else str.lower
    both = zip(inputs, outputs, strict=True)
    added = [output for name, output in both if fold(name) != fold(output)]
    added += indicators
    output_param = "outputCols" if param == "inputCols" else "outputCol"
    for name in added:
        columns.refuse_existing(dataset, {output_param: name})
    if len({fold(name) for name in added}) < len(added):
        raise ValueError(f"{output_param} contains a name twice: {added}")


def wanted(features: Features, n_features: int) -> Input:
    """Return whether a row is to be searched: it lacks a value, or it may be invalid.

    Parameters
    ----------
    features : Features
        The features of the rows.
    n_features : int
        The number of features that a valid row has.
    """
    values = features.inputs[VALUES].value
    size = F.size(values)
    if LAYOUT in features.inputs:
        size = F.coalesce(F.get(features.inputs[LAYOUT].value, F.lit(0)), size)
    finite = F.forall(values, lambda each: each.isNotNull() & (F.abs(each) < float("inf")))
    complete = F.coalesce(finite & (size == n_features), F.lit(False))
    return Input(~complete, T.BooleanType())
