"""Check in Spark's plan whether a column has the same values each time it is computed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, cast

from pyspark.sql import DataFrame

from pyspark_knn.engine.rows import columns
from pyspark_knn.engine.spark import compat

logger = logging.getLogger(__name__)


def is_nondeterministic(dataset: DataFrame, name: str) -> bool:
    """Whether a column has different values each time it is computed, such as ``uuid()``.

    This starts no job. Cached and checkpointed data count as deterministic, since they are computed
    once. So do Python UDFs that take arguments, unless they are marked as nondeterministic. Spark
    Connect does not expose the plan, so the result is always False there.

    Parameters
    ----------
    dataset : DataFrame
        The data, which are not read.
    name : str
        The name of a column of `dataset`.

    Returns
    -------
    bool
        True if the plan shows that the values are not deterministic.
    """
    if compat.is_connect(dataset.sparkSession):
        return False
    try:
        # Spark has analyzed this plan already, and most plans are deterministic as a whole.
        if not _may_be_random(dataset, _plans(dataset).analyzed()):
            return False
        # The optimized plan of this column alone, in which cached data are leaves.
        plan = _plans(dataset.select(columns.column(name))).optimizedPlan()
        return _may_be_random(dataset, plan) and _is_random(plan, _ids(plan.output()))
    except Exception:  # hosted Spark may deny access to the JVM, which must not make fit fail
        logger.debug("cannot inspect the query plan", exc_info=True)
        return False


def _plans(frame: DataFrame) -> Any:
    return cast("Any", frame)._jdf.queryExecution()


def _may_be_random(dataset: DataFrame, plan: Any) -> bool:
    patterns = cast(
        "Any", dataset.sparkSession
    )._jvm.org.apache.spark.sql.catalyst.trees.TreePattern
    return not plan.deterministic() or plan.containsPattern(patterns.PYTHON_UDF())


def _is_random(plan: Any, wanted: set[str]) -> bool:
    """Whether `plan` or a plan below it computes an attribute in `wanted` nondeterministically."""
    makes_wanted = bool(_ids(plan.producedAttributes().toSeq()) & wanted)
    for expression in _each(plan.expressions()):
        alias = _kind(expression) == "Alias" and str(expression.exprId()) in wanted
        if not alias and not makes_wanted:
            continue
        if not expression.deterministic() or any(map(_lacks_inputs, _subexpressions(expression))):
            return True
        wanted = wanted | _ids(expression.references().toSeq())
    return any(_is_random(child, _below(plan, child, wanted)) for child in _each(plan.children()))


def _below(plan: Any, child: Any, wanted: set[str]) -> set[str]:
    """Return the wanted attributes of a child; a union renames those of its children."""
    if _kind(plan) != "Union":
        return wanted
    pairs = zip(_each(plan.output()), _each(child.output()), strict=True)
    return wanted | {str(mine.exprId()) for own, mine in pairs if str(own.exprId()) in wanted}


def _lacks_inputs(expression: Any) -> bool:
    """Whether an expression is a Python UDF without arguments.

    Such a UDF cannot derive an id from a row, although Spark assumes that it is deterministic
    unless it is marked as nondeterministic.
    """
    return _kind(expression) == "PythonUDF" and expression.children().isEmpty()


def _ids(attributes: Any) -> set[str]:
    return {str(each.exprId()) for each in _each(attributes)}


def _each(sequence: Any) -> Iterator[Any]:
    return (sequence.apply(i) for i in range(sequence.size()))


def _kind(node: Any) -> str:
    return str(node.getClass().getSimpleName())


def _subexpressions(expression: Any) -> Iterator[Any]:
    yield expression
    for child in _each(expression.children()):
        yield from _subexpressions(child)
