"""Everything that depends on the version of Spark, or differs on Spark Connect."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pyspark
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pyspark_knn.engine.spark import hints
from pyspark_knn.engine.spark.arrow import rows_of

logger = logging.getLogger(__name__)

FUNCTIONS: Any = F
"""pyspark.sql.functions, untyped, since the functions in it depend on the version of Spark."""

_MAJOR, _MINOR = (int(number) for number in re.findall(r"\d+", pyspark.__version__)[:2])

# The wheel does not require pyspark, so pip does not check its version.
if (_MAJOR, _MINOR) < (3, 5):
    raise ImportError(
        f"pyspark_knn requires Spark 3.5 or later, but pyspark {pyspark.__version__} is installed"
    )


def is_connect(session: SparkSession) -> bool:
    """Whether `session` is a Spark Connect client, which has neither a JVM nor a SparkContext."""
    return "connect" in type(session).__module__.split(".")


def active_session(what: str) -> SparkSession:
    """Return the active session; raise a ValueError that names `what` if there is none."""
    session = SparkSession.getActiveSession()
    if session is None:
        raise ValueError(f"{what} requires an active Spark session, but there is none")
    return session


def session_of(dataset: DataFrame, argument: str = "dataset") -> SparkSession:
    """Return the session of a DataFrame, after checking that both can be used.

    Parameters
    ----------
    dataset : DataFrame
        The argument that a user passed.
    argument : str, default="dataset"
        The name of that argument, for error messages.

    Returns
    -------
    SparkSession
        The session, which is running.

    Raises
    ------
    TypeError
        If the argument is not a Spark DataFrame. The message explains how to create one.
    ValueError
        If the session was stopped, or is one of Spark Connect before 4.0.
    """
    # On Spark 3.5 a Connect DataFrame is an unrelated class, which cannot be imported everywhere.
    connect = type(dataset).__module__ == "pyspark.sql.connect.dataframe"
    if not (connect or isinstance(dataset, DataFrame)):
        raise TypeError(
            f"{argument} must be a Spark DataFrame, got {hints.described(dataset)}: "
            f"{hints.instead_of(dataset)}"
        )
    session = dataset.sparkSession
    if is_connect(session) and _MAJOR < 4:
        # Before 4.0, neither vectors nor the writers of pyspark.ml work on Spark Connect.
        raise ValueError(
            "Spark Connect requires Spark 4.0 or later, but pyspark "
            f"{pyspark.__version__} is installed. Use a classic session."
        )
    if not is_alive(session):
        raise ValueError(
            f"{argument} belongs to a Spark session that was stopped. Create the DataFrame again "
            "in the running session, where the model can still be used."
        )
    return session


def is_alive(session: SparkSession) -> bool:
    """Whether `session` was not stopped."""
    if is_connect(session):
        return not getattr(session, "is_stopped", False)
    return session.sparkContext._jsc is not None


def session_key(session: SparkSession) -> str:
    """Return the id of the owner of a session's files: the application, or the Connect session."""
    if is_connect(session):
        return str(cast("Any", session).session_id)
    return str(session.sparkContext.applicationId)


def is_local(session: SparkSession) -> bool:
    """Whether the executors are threads on this machine, so that they see its files.

    False on Spark Connect, where the server may run on another machine.
    """
    if is_connect(session):
        return False
    return bool(re.match(r"local(\[|$)", session.sparkContext.master or ""))


def parallelism(session: SparkSession) -> int:
    """Return the number of tasks that the cluster currently runs at a time.

    On Spark Connect this runs a tiny job, so it is called by fit and load only.
    """
    if not is_connect(session):
        return max(1, session.sparkContext.defaultParallelism)
    # By default a range has one partition for each core.
    whole = session.range(1 << 20).select(F.spark_partition_id().alias("partition"))
    return int(whole.agg(F.count_distinct("partition")).collect()[0][0])


def same_cluster(one: SparkSession, other: SparkSession) -> bool:
    """Whether a DataFrame that was persisted in session `one` can be read in session `other`."""
    if is_connect(one) or is_connect(other):
        return session_key(one) == session_key(other)
    return is_alive(one) and one.sparkContext is other.sparkContext


def is_stream_without_files(frame: DataFrame) -> bool:
    """Whether the tasks over `frame` cannot read the artifacts of its session.

    This holds for streaming queries on Spark Connect, which run in a clone of the session (4.3.0).
    """
    return is_connect(frame.sparkSession) and frame.isStreaming


def refusals() -> tuple[type[Exception], ...]:
    """Return the exceptions that a Spark Connect client raises if its server refuses a request."""
    import grpc

    return (PySparkException, grpc.RpcError)


def add_pyfile(session: SparkSession, path: Path) -> None:
    """Add a zip of Python modules to the workers' import path, once for each name of a zip."""
    if is_connect(session):
        cast("Any", session).addArtifact(str(path), pyfile=True)
        return
    context = session.sparkContext
    # Executors fetch the file whenever they start, so it must exist as long as the session does.
    kept = Path(cast("Any", context)._temp_dir) / path.name
    # A cleaner of temporary files may have deleted it since the last call.
    if not kept.exists():
        shutil.copy(path, kept)
    if path.name not in cast("Any", context)._python_includes:
        context.addPyFile(str(kept))


def session_file(name: str) -> str:
    """Return the path of an artifact of the session; to be called in a worker."""
    # pyspark-client, which has no JARs, lacks SparkFiles; the workers of its server have it.
    from pyspark import SparkFiles

    return str(SparkFiles.get(name))


@contextlib.contextmanager
def described(session: SparkSession, text: str) -> Iterator[None]:
    """Set the description of the jobs of this block in Spark's UI; no effect on Spark Connect."""
    if is_connect(session):
        yield
        return
    context, name = session.sparkContext, "spark.job.description"
    before = context.getLocalProperty(name)
    context.setLocalProperty(name, text)
    try:
        yield
    finally:
        context.setLocalProperty(name, cast("str", before))


def has_arrow_udf() -> bool:
    """Whether this Spark has Arrow UDFs, which take and return Arrow arrays (4.1 and later)."""
    return hasattr(FUNCTIONS, "arrow_udf")


def limits_batches() -> bool:
    """Whether this Spark limits the bytes of an Arrow batch (4.0 and later)."""
    return _MAJOR >= 4


def setting(session: SparkSession, name: str, default: str) -> str:
    """Return a setting of the session, or the default if it is unset or hidden by the server."""
    if not is_connect(session):
        return session.conf.get(name, default) or default
    try:
        return session.conf.get(name, default) or default
    except refusals():
        return default


def flag(session: SparkSession, name: str, *, default: bool) -> bool:
    """Return a boolean setting of the session. As in Spark, "TRUE" is true as well."""
    return setting(session, name, str(default)).strip().lower() == "true"


def is_encrypted(session: SparkSession) -> bool:
    """Whether a classic session encrypts data on local disks (`spark.io.encryption.enabled`)."""
    return bool(cast("Any", session.sparkContext)._encryption_enabled)


def drops_metadata(session: SparkSession) -> bool:
    """Whether `DataFrame.withColumn` drops the metadata of an alias, as on Spark Connect.

    The protocol of 4.3.0 transmits metadata for `withMetadata` only.
    """
    return is_connect(session)


def metadata_session(session: SparkSession) -> Any:
    """Return the session for pyspark's `DefaultParamsWriter`: a SparkContext before Spark 4.0."""
    return session if _MAJOR >= 4 else session.sparkContext


def can_rename(session: SparkSession) -> bool:
    """Whether folders can be renamed: a Spark Connect client can only delete them."""
    return not is_connect(session)


def qualified(session: SparkSession, path: str) -> str | None:
    """Return `path` as an absolute URI with its file system; None on Spark Connect."""
    return None if is_connect(session) else str(_hadoop(session, path)[1])


def resolved(session: SparkSession, path: str) -> str | None:
    """Return `path` with mounts and symbolic links resolved if it exists; None on Spark Connect."""
    if is_connect(session):
        return None
    system, place = _hadoop(session, path)
    if system.exists(place):
        place = system.resolvePath(place)
    uri = place.toUri()
    if uri.getScheme() != "file":
        return str(place)
    return "file:" + os.path.realpath(str(uri.getPath()))


def rename_folder(session: SparkSession, source: str, target: str) -> bool:
    """Rename a folder on classic Spark; return False if it does not exist."""
    system, place = _hadoop(session, source)
    if not system.exists(place):
        return False
    if not system.rename(place, _hadoop(session, target)[1]):
        raise OSError(f"{source} cannot be renamed to {target}")
    return True


def remove_folder(session: SparkSession, path: str) -> None:
    """Delete a folder with its content, if it exists."""
    if not is_connect(session):
        system, place = _hadoop(session, path)
        system.delete(place, True)
        return
    # Spark does the same for a Pipeline on Connect: MLWriter itself uses the JVM, which a Connect
    # client does not have (Spark 4.0 to 4.3).
    from pyspark.ml.connect.readwrite import RemoteMLWriter

    cast("Any", RemoteMLWriter).handleOverwrite(path, True)


def _hadoop(session: SparkSession, path: str) -> tuple[Any, Any]:
    """Return Hadoop's file system of `path`, and `path` qualified by it."""
    classic = cast("Any", session)
    place = classic._jvm.org.apache.hadoop.fs.Path(path)
    system = place.getFileSystem(classic._jsparkSession.sessionState().newHadoopConf())
    return system, place.makeQualified(system.getUri(), system.getWorkingDirectory())


_TRACEBACK = "Traceback (most recent call last):"
_RAISED = re.compile(r"^\w*(?:Error|Exception): (.+)$", re.MULTILINE)
"""The traceback of a Python worker, and the line of it that says what was raised."""


def reason(error: BaseException) -> str:
    """Return the first line of an error's message; of a Java exception, that of its root cause.

    Of an error that a Python worker raised, it is the message in the worker.
    """
    java = getattr(error, "java_exception", None)
    while java is not None and java.getCause() is not None:
        java = java.getCause()
    text = str(error) if java is None else str(java.getMessage())
    worker = text.partition(_TRACEBACK)[2].partition("\n\tat ")[0].partition("JVM stacktrace")[0]
    if raised := _RAISED.findall(worker):
        return str(raised[-1])
    return text.strip().splitlines()[0] if text.strip() else type(error).__name__


def collect(frame: DataFrame) -> list[dict[str, Any]]:
    """Collect the rows of `frame`, as dictionaries from column names to values.

    Since Spark 4.0 rows are collected as Arrow, with binary values as buffers: `collect` pickles
    them in the JVM and copies them several times.
    """
    if _MAJOR < 4:
        return [row.asDict() for row in frame.collect()]
    table = cast("Any", frame).toArrow()
    return [row for batch in table.to_batches() for row in rows_of(batch)]
