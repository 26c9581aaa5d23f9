"""Whether a column is the same each time that it is computed, as far as Spark's plan tells."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, cast

from pyspark.sql import DataFrame

from pyspark_knn.engine.rows import columns
from pyspark_knn.engine.spark import compat

logger = logging.getLogger(__name__)


def is_drawn(dataset: DataFrame, name: str) -> bool:
    """Whether the plan draws the values of a column anew each time that it is computed.

    No job. What is cached or was checkpointed is computed once, so it counts as read. A Python
    function that takes arguments is believed to be deterministic, as Spark believes it. On Spark
    Connect nothing is known, so nothing is said.

    Parameters
    ----------
    dataset : DataFrame
    name : str
        Names one of its columns.
    """
    if compat.is_connect(dataset.sparkSession):
        return False
    try:
        # This plan is there already. Most are deterministic, and that is all of it.
        if not _may_draw(dataset, _plans(dataset).analyzed()):
            return False
        # What is left of the plan for this column alone, with cached data as its leaves.
        plan = _plans(dataset.select(columns.column(name))).optimizedPlan()
        return _may_draw(dataset, plan) and _draws(plan, _ids(plan.output()))
    except Exception:  # hosted Sparks lock parts of the JVM away, and a warning is not worth a fit
        logger.debug("the plan could not be looked through", exc_info=True)
        return False


def _plans(frame: DataFrame) -> Any:
    return cast("Any", frame)._jdf.queryExecution()


def _may_draw(dataset: DataFrame, plan: Any) -> bool:
    patterns = cast(
        "Any", dataset.sparkSession
    )._jvm.org.apache.spark.sql.catalyst.trees.TreePattern
    return not plan.deterministic() or plan.containsPattern(patterns.PYTHON_UDF())


def _draws(plan: Any, wanted: set[str]) -> bool:
    """Whether any of the attributes `wanted` is drawn in `plan` or below it."""
    makes_wanted = bool(_ids(plan.producedAttributes().toSeq()) & wanted)
    for expression in _each(plan.expressions()):
        alias = _kind(expression) == "Alias" and str(expression.exprId()) in wanted
        if not alias and not makes_wanted:
            continue
        if not expression.deterministic() or any(map(_is_blind, _parts_of(expression))):
            return True
        wanted = wanted | _ids(expression.references().toSeq())
    return any(_draws(child, _below(plan, child, wanted)) for child in _each(plan.children()))


def _below(plan: Any, child: Any, wanted: set[str]) -> set[str]:
    """What is wanted of a child: a union has attributes of its own, by their places."""
    if _kind(plan) != "Union":
        return wanted
    pairs = zip(_each(plan.output()), _each(child.output()), strict=True)
    return wanted | {str(mine.exprId()) for own, mine in pairs if str(own.exprId()) in wanted}


def _is_blind(expression: Any) -> bool:
    """Whether it is a Python function without arguments, which can hardly give a row its id.

    Spark takes it for deterministic, unless it is told otherwise.
    """
    return _kind(expression) == "PythonUDF" and expression.children().isEmpty()


def _ids(attributes: Any) -> set[str]:
    return {str(each.exprId()) for each in _each(attributes)}


def _each(sequence: Any) -> Iterator[Any]:
    return (sequence.apply(i) for i in range(sequence.size()))


def _kind(node: Any) -> str:
    return str(node.getClass().getSimpleName())


def _parts_of(expression: Any) -> Iterator[Any]:
    yield expression
    for child in _each(expression.children()):
        yield from _parts_of(child)
