"""What Spark's optimizer knows of a DataFrame before it is computed."""

from __future__ import annotations

import logging
from typing import Any, cast

from pyspark.sql import DataFrame

from pyspark_knn.engine.spark import compat

logger = logging.getLogger(__name__)

_ONE_BY_ONE = ("Project", "Filter")
"""The operators that compute each row from one row."""

_FILES = ("LogicalRelation", "DataSourceV2ScanRelation")
_ROWS = "LocalRelation"
_PERSISTED = "InMemoryRelation"


def is_small_scan(frame: DataFrame, most_bytes: int) -> bool:
    """Whether one task computes a DataFrame about as fast as several: only few rows are read.

    This holds for projections and filters, without functions of the user, of files, of rows that
    were sent with the plan, and of persisted rows, if Spark's estimate of their size is at most
    `most_bytes`. Of a filter that is the size of its input. False on Spark Connect, whose clients
    do not see plans.

    Parameters
    ----------
    frame : DataFrame
        The DataFrame.
    most_bytes : int
        The largest estimate, in bytes.
    """
    if compat.is_connect(frame.sparkSession):
        return False
    try:
        plan = cast("Any", frame)._jdf.queryExecution().optimizedPlan()
        return int(str(plan.stats().sizeInBytes())) <= most_bytes and _is_scan(frame, plan)
    except Exception:  # hosted Spark may deny access to the JVM
        logger.debug("cannot inspect the query plan", exc_info=True)
        return False


def _is_scan(frame: DataFrame, plan: Any) -> bool:
    """Whether a plan reads rows, and computes each by functions of Spark SQL."""
    patterns = cast("Any", frame.sparkSession)._jvm.org.apache.spark.sql.catalyst.trees.TreePattern
    # A function of the user, or a query within an expression, may take any time.
    if any(plan.containsPattern(each()) for each in (patterns.SCALA_UDF, patterns.PLAN_EXPRESSION)):
        return False
    while plan.nodeName() in _ONE_BY_ONE:
        plan = plan.child()
    kind = str(plan.getClass().getSimpleName())
    if kind == _PERSISTED:
        # Rows that are not in memory yet, or not any more, may come from any plan.
        return bool(plan.cacheBuilder().isCachedColumnBuffersLoaded())
    return kind == _ROWS or kind in _FILES
