"""The columns that an imputer reads and writes: numeric columns, or one column of vectors.

All of this is computed in the JVM: values that are not missing never change, not even their type.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

from pyspark.ml.functions import array_to_vector, vector_to_array
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn.engine.rows import columns
from pyspark_knn.engine.rows.columns import Input
from pyspark_knn.engine.rows.features import Features, features_of
from pyspark_knn.engine.rows.vectors import LAYOUT, VALUES

_DOUBLES = T.ArrayType(T.DoubleType())


class Imputation(NamedTuple):
    """What a fit decides about each feature.

    Attributes
    ----------
    empty : list of bool
        Whether no item has the feature. Such a feature is output as 0, or not at all.
    keeps_empty : bool
        Whether such features are output.
    indicated : list of bool
        Whether the output tells where the feature was missing.
    """

    empty: list[bool]
    keeps_empty: bool
    indicated: list[bool]


class InputColumns(ABC):
    """The columns to impute.

    Attributes
    ----------
    param, name : str
        The Param that names them, and their names, for messages.
    """

    param: str
    name: str

    @abstractmethod
    def features(self, empty: Sequence[bool] = ()) -> Features:
        """Return the features in the form in which they are sent to Python, missing values as NaN.

        Parameters
        ----------
        empty : sequence of bool, optional
            The features that no item has. They are never missing, so that they are not searched.
        """

    @abstractmethod
    def output(self, frame: DataFrame, imputed: str, imputation: Imputation) -> DataFrame:
        """Return a search with the output columns, and without the column `imputed` that it added.

        Parameters
        ----------
        frame : DataFrame
            The queries, and the column `imputed` of arrays, which are null for invalid queries.
        imputed : str
            The name of the column that has a value for each feature that the query lacks.
        imputation : Imputation
            What the fit decided.
        """

    def indicators(self, imputation: Imputation) -> list[str]:
        """Return the names of the columns that tell where features were missing, if any."""
        return []


def _is_missing(value: Column, missing_value: float) -> Column:
    """Whether a double is missing."""
    missing = value.isNull() | F.isnan(value)
    return missing if math.isnan(missing_value) else missing | (value == F.lit(missing_value))


# --- numeric columns ------------------------------------------------------------------------------


class NumericColumns(InputColumns):
    """Numeric columns of any type, whose outputs have the same type.

    Parameters
    ----------
    dataset : DataFrame
        The data.
    param : {"inputCols", "inputCol"}
        The Param that names the columns.
    names : sequence of str
        The columns.
    outputs : sequence of str
        The output columns.
    missing_value : float
        A number that stands for a missing value.
    """

    def __init__(
        self,
        dataset: DataFrame,
        param: str,
        names: Sequence[str],
        outputs: Sequence[str],
        missing_value: float,
    ) -> None:
        self.param = param
        self.name = ", ".join(names)
        self._fields = [columns.field_of(dataset, param, name) for name in names]
        self._outputs = list(outputs)
        self._missing_value = missing_value
        for field in self._fields:
            if not isinstance(field.dataType, T.NumericType):
                raise TypeError(
                    f"{param} {field.name!r} must be numeric but was actually "
                    f"{field.dataType.simpleString()}; cast it with "
                    f"F.col({field.name!r}).cast('double') or, if it contains categories, use "
                    "pyspark.ml.feature.StringIndexer and OneHotEncoder"
                )
        found = [field.name for field in self._fields]
        if len(set(found)) < len(found):
            raise ValueError(f"{param} {list(names)} names a column twice: {found}")

    def _missing(self, field: T.StructField) -> Column:
        value, given = columns.column(field.name), self._missing_value
        missing = _is_missing(value.cast("double"), math.nan)
        if math.isnan(given):
            return missing
        # As a float, since 0.1 is another number as a double.
        single = isinstance(field.dataType, T.FloatType)
        same = value == F.lit(given).cast("float") if single else value.cast("double") == given
        return missing | same

    def features(self, empty: Sequence[bool] = ()) -> Features:
        """See `InputColumns.features`."""
        values = []
        for i, field in enumerate(self._fields):
            if empty and empty[i]:
                values.append(F.lit(0.0))
                continue
            value = columns.column(field.name).cast("double")
            values.append(F.when(self._missing(field), F.lit(math.nan)).otherwise(value))
        return Features({VALUES: Input(F.array(*values), _DOUBLES)}, None, None)

    def output(self, frame: DataFrame, imputed: str, imputation: Imputation) -> DataFrame:
        """See `InputColumns.output`."""
        valid, values = F.col(imputed).isNotNull(), {}
        for i, (field, name) in enumerate(zip(self._fields, self._outputs, strict=True)):
            value = columns.column(field.name)
            if imputation.empty[i]:
                value = F.lit(0).cast(field.dataType)
            else:
                filled = F.get(F.col(imputed), F.lit(i))
                if isinstance(field.dataType, T.IntegralType):
                    filled = F.round(filled)
                value = F.when(self._missing(field), filled.cast(field.dataType)).otherwise(value)
            values[name] = F.when(valid, value).alias(name)
        indicated = [i for i, each in enumerate(imputation.indicated) if each]
        for i, name in zip(indicated, self.indicators(imputation), strict=True):
            missing = self._missing(self._fields[i]).cast("double")
            values[name] = F.when(valid, missing).alias(name)
        return columns.replace_columns(frame, values).drop(imputed)

    def indicators(self, imputation: Imputation) -> list[str]:
        """See `InputColumns.indicators`."""
        both = zip(self._outputs, imputation.indicated, strict=True)
        return [f"{name}_missing" for name, indicated in both if indicated]


# --- a column of vectors --------------------------------------------------------------------------


class VectorColumn(InputColumns):
    """A column of vectors or of arrays, whose output is of the same kind.

    Parameters
    ----------
    dataset : DataFrame
        The data.
    name : str
        The column that featuresCol names.
    output : str
        The output column.
    missing_value : float
        A number that stands for a missing value.
    """

    param = "featuresCol"

    def __init__(self, dataset: DataFrame, name: str, output: str, missing_value: float) -> None:
        self.name = name
        self._plain = features_of(dataset, self.param, name)
        self._field = columns.field_of(dataset, self.param, name)
        self._output = output
        self._missing_value = missing_value

    @property
    def _element(self) -> T.DataType:
        """The type of the numbers in the output, which is double unless the input is float."""
        kind = self._field.dataType
        single = isinstance(kind, T.ArrayType) and isinstance(kind.elementType, T.FloatType)
        return T.FloatType() if single else T.DoubleType()

    @property
    def _is_array(self) -> bool:
        return isinstance(self._field.dataType, T.ArrayType)

    def _dense(self) -> Column:
        """Return the values as an array of double, with the zeros of sparse vectors."""
        value = columns.column(self._field.name)
        if self._is_array:
            return value.cast(_DOUBLES)
        if isinstance(self._field.dataType, VectorUDT):
            return F.when(value.isNotNull(), vector_to_array(value))
        # A vector that was stored as a struct; of a sparse one, the layout is size and indices.
        given = {name: each.value for name, each in self._plain.inputs.items()}
        layout = given[LAYOUT]
        size = F.get(layout, F.lit(0))
        zeros = F.array_repeat(F.lit(0.0), size)
        indices = F.slice(layout, F.lit(2), F.size(layout))
        entries = F.map_from_arrays(indices, given[VALUES])
        sparse = F.transform(zeros, lambda zero, i: F.coalesce(entries[i], zero))
        return F.when(size.isNull(), given[VALUES]).otherwise(sparse)

    def features(self, empty: Sequence[bool] = ()) -> Features:
        """See `InputColumns.features`."""
        if math.isnan(self._missing_value) and not any(empty):
            return self._plain

        def value_of(value: Column, i: Column) -> Column:
            missing = _is_missing(value, self._missing_value)
            given = F.when(missing, F.lit(math.nan)).otherwise(value)
            return F.when(_flags(empty, i), 0.0).otherwise(given) if any(empty) else given

        values = Input(F.transform(self._dense(), value_of), _DOUBLES)
        return self._plain._replace(inputs={VALUES: values})

    def output(self, frame: DataFrame, imputed: str, imputation: Imputation) -> DataFrame:
        """See `InputColumns.output`."""
        value, dense = columns.column(self._field.name), self._dense()

        def is_missing(each: Column) -> Column:
            return _is_missing(each, self._missing_value)

        def filled(each: Column, i: Column) -> Column:
            known = F.when(is_missing(each), F.get(F.col(imputed), i)).otherwise(each)
            if not any(imputation.empty):
                return known
            return F.when(_flags(imputation.empty, i), 0.0).otherwise(known)

        found = F.transform(dense, filled)
        if any(imputation.empty) and not imputation.keeps_empty:
            found = F.filter(found, lambda each, i: ~_flags(imputation.empty, i))
        if any(imputation.indicated):
            flags = F.transform(dense, lambda each: is_missing(each).cast("double"))
            flags = F.filter(flags, lambda each, i: _flags(imputation.indicated, i))
            found = F.concat(found, flags)
        valid = F.col(imputed).isNotNull()
        result = self._as_input(F.when(valid, found))
        if not any(imputation.empty) and not any(imputation.indicated):
            # A complete vector stays what it is: dense or sparse.
            result = F.when(F.exists(dense, is_missing), result).otherwise(self._unchanged(value))
        attributes = self._attributes(imputation)
        named = columns.with_attributes(self._output, F.when(valid, result), attributes)
        return columns.replace_columns(frame, {self._output: named}).drop(imputed)

    def _as_input(self, array: Column) -> Column:
        """Convert an array of double, which may be null, to the type of the output."""
        if self._is_array:
            return array.cast(T.ArrayType(self._element))
        return array_to_vector(F.coalesce(array, F.array().cast(_DOUBLES)))

    def _unchanged(self, value: Column) -> Column:
        if self._is_array:
            return value.cast(T.ArrayType(self._element))
        is_vector = isinstance(self._field.dataType, VectorUDT)
        return value if is_vector else self._as_input(self._dense())

    def _attributes(self, imputation: Imputation) -> dict[str, Any]:
        """Return the ML attributes of the output: how many features it has, and their names."""
        nameless = [None] * len(imputation.empty)
        names: Sequence[str | None] = self._plain.names or nameless
        kept: list[str | None] = [
            name
            for name, empty in zip(names, imputation.empty, strict=True)
            if imputation.keeps_empty or not empty
        ]
        kept += [
            None if name is None else f"{name}_missing"
            for name, indicated in zip(names, imputation.indicated, strict=True)
            if indicated
        ]
        named = [{"idx": i, "name": name} for i, name in enumerate(kept) if name is not None]
        if self._is_array:
            return {}
        return {"num_attrs": len(kept), **({"attrs": {"numeric": named}} if named else {})}


def _flags(flags: Sequence[bool], i: Column) -> Column:
    """Return the flag at a position, given in a column."""
    return F.get(F.array(*map(F.lit, flags)), i)
