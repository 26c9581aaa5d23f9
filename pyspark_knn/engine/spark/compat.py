"""Every branch on a Spark version, and on classic Spark or Spark Connect."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
import pyspark
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_type

from pyspark_knn.engine.ship import udf
from pyspark_knn.engine.ship.guard import guarded
from pyspark_knn.engine.spark import hints
from pyspark_knn.engine.spark.arrow import rows_of

if TYPE_CHECKING:
    from pyspark.sql.types import DataType

logger = logging.getLogger(__name__)

# What it holds depends on the version of Spark, so no type checker knows it.
_FUNCTIONS: Any = F

_MAJOR, _MINOR = (int(number) for number in re.findall(r"\d+", pyspark.__version__)[:2])

# No requirement of the wheel sees to it: which pyspark there is, is up to the user.
if (_MAJOR, _MINOR) < (3, 5):
    raise ImportError(
        f"pyspark_knn requires Spark 3.5 or later, but pyspark {pyspark.__version__} is installed"
    )


def is_connect(session: SparkSession) -> bool:
    """Whether `session` talks to a Spark Connect server (it then has no JVM and no context)."""
    return "connect" in type(session).__module__.split(".")


def session_of(dataset: DataFrame, argument: str = "dataset") -> SparkSession:
    """The session of a user's DataFrame, which must be one, and the session alive.

    Parameters
    ----------
    dataset : DataFrame
        What the user gave.
    argument : str
        The name that it was given as, for messages.

    Raises
    ------
    TypeError
        If it is no Spark DataFrame; says how to make one.
    ValueError
        If the session was stopped, or if it is one of Spark Connect 3.5.
    """
    # On Spark 3.5 that of Spark Connect is a class of its own, which cannot be imported everywhere.
    connect = type(dataset).__module__ == "pyspark.sql.connect.dataframe"
    if not (connect or isinstance(dataset, DataFrame)):
        raise TypeError(
            f"{argument} must be a Spark DataFrame, got {hints.described(dataset)}: "
            f"{hints.instead_of(dataset)}"
        )
    session = dataset.sparkSession
    if is_connect(session) and _MAJOR < 4:
        # MLlib itself came to Spark Connect with 4.0: before, neither vectors nor the writers of
        # pyspark.ml work there.
        raise ValueError("Spark Connect needs Spark 4.0 or later: use a classic session")
    if not is_alive(session):
        raise ValueError(
            "the Spark session of this DataFrame was stopped: create the DataFrame anew in the "
            "running session (the model itself can still be used there)"
        )
    return session


def is_alive(session: SparkSession) -> bool:
    """Whether `session` still takes commands."""
    if is_connect(session):
        return not getattr(session, "is_stopped", False)
    return session.sparkContext._jsc is not None


def session_key(session: SparkSession) -> str:
    """Names what holds the files of a session: the application, or the session on a server."""
    if is_connect(session):
        return str(cast("Any", session).session_id)
    return str(session.sparkContext.applicationId)


def is_local(session: SparkSession) -> bool:
    """Whether the executors are this machine's own threads, so that they see its files.

    Never on Spark Connect: wherever the server is, its files are none of the client's business.
    """
    if is_connect(session):
        return False
    return bool(re.match(r"local(\[|$)", session.sparkContext.master or ""))


def parallelism(session: SparkSession) -> int:
    """Tasks that the cluster runs at a time, as far as it tells now.

    On Spark Connect this is a job, but a tiny one: for the use of fit and load.
    """
    if not is_connect(session):
        return max(1, session.sparkContext.defaultParallelism)
    # A range without a number of partitions has as many as there are cores.
    whole = session.range(1 << 20).select(F.spark_partition_id().alias("partition"))
    return int(whole.agg(F.count_distinct("partition")).collect()[0][0])


def same_cluster(one: SparkSession, other: SparkSession) -> bool:
    """Whether what is persisted in `one` can be read in `other`."""
    if is_connect(one) or is_connect(other):
        return session_key(one) == session_key(other)
    return is_alive(one) and one.sparkContext is other.sparkContext


def is_stream_without_files(frame: DataFrame) -> bool:
    """Whether the tasks over `frame` cannot see the artifacts of its session.

    Those of a streaming query on Spark Connect cannot (4.3.0): they run in a copy of the session.
    """
    return is_connect(frame.sparkSession) and frame.isStreaming


def refusals() -> tuple[type[Exception], ...]:
    """What a Spark Connect client raises where its server declines to do something."""
    import grpc

    return (PySparkException, grpc.RpcError)


def add_pyfile(session: SparkSession, path: Path) -> None:
    """Put a zip of Python modules on the path of the workers; once is enough for one name."""
    if is_connect(session):
        cast("Any", session).addArtifact(str(path), pyfile=True)
        return
    context = session.sparkContext
    # Executors fetch it from here whenever they come up: it must live as long as the session.
    kept = Path(cast("Any", context)._temp_dir) / path.name
    # A cleaner of temporary files may have removed it: executors that come up need it again.
    if not kept.exists():
        shutil.copy(path, kept)
    if path.name not in cast("Any", context)._python_includes:
        context.addPyFile(str(kept))


def session_file(name: str) -> str:
    """In a worker: where an artifact of its session is."""
    # A client without JARs (pyspark-client) has no such name; its server's workers do.
    from pyspark import SparkFiles

    return str(SparkFiles.get(name))


@contextlib.contextmanager
def described(session: SparkSession, text: str) -> Iterator[None]:
    """Show `text` beside the jobs of this block in Spark's UI; Spark Connect cannot."""
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
    """Whether Spark hands Arrow arrays to scalar functions (Spark 4.1 and later)."""
    return hasattr(_FUNCTIONS, "arrow_udf")


def setting(session: SparkSession, name: str, default: str) -> str:
    """A setting of the session, or the default where it is unset or a hosted server hides it."""
    if not is_connect(session):
        return session.conf.get(name, default) or default
    try:
        return session.conf.get(name, default) or default
    except refusals():
        return default


def flag(session: SparkSession, name: str, *, default: bool) -> bool:
    """A yes-or-no setting of the session, read as Spark reads it: "TRUE" is true."""
    return setting(session, name, str(default)).strip().lower() == "true"


def is_encrypted(session: SparkSession) -> bool:
    """Whether a classic session encrypts what it writes to disk (`spark.io.encryption.enabled`)."""
    return bool(cast("Any", session.sparkContext)._encryption_enabled)


def drops_metadata(session: SparkSession) -> bool:
    """Whether `DataFrame.withColumn` forgets the metadata of an alias: it does on Spark Connect.

    Seen in 4.3.0, whose protocol has metadata for `withMetadata` only.
    """
    return is_connect(session)


def metadata_session(session: SparkSession) -> Any:
    """What `DefaultParamsWriter` and `DefaultParamsReader` want: a context before Spark 4.0."""
    return session if _MAJOR >= 4 else session.sparkContext


def can_rename(session: SparkSession) -> bool:
    """Whether folders can be renamed: a Spark Connect client can only have them removed."""
    return not is_connect(session)


def qualified(session: SparkSession, path: str) -> str | None:
    """`path` with its file system and its root; None on Spark Connect, which does not tell."""
    return None if is_connect(session) else str(_hadoop(session, path)[1])


def resolved(session: SparkSession, path: str) -> str | None:
    """`path` behind mounts and links, where it exists; None on Spark Connect."""
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
    """Rename a folder, on classic Spark; False where there is none."""
    system, place = _hadoop(session, source)
    if not system.exists(place):
        return False
    if not system.rename(place, _hadoop(session, target)[1]):
        raise OSError(f"{source} could not be renamed to {target}")
    return True


def remove_folder(session: SparkSession, path: str) -> None:
    """Remove a folder and all that is in it, if it exists."""
    if not is_connect(session):
        system, place = _hadoop(session, path)
        system.delete(place, True)
        return
    # What Spark does there for a Pipeline: MLWriter's own way goes through the JVM, which a Connect
    # client has not (Spark 4.0 to 4.3).
    from pyspark.ml.connect.readwrite import RemoteMLWriter

    cast("Any", RemoteMLWriter).handleOverwrite(path, True)


def _hadoop(session: SparkSession, path: str) -> tuple[Any, Any]:
    """Hadoop's file system for `path`, and the path on it."""
    classic = cast("Any", session)
    place = classic._jvm.org.apache.hadoop.fs.Path(path)
    system = place.getFileSystem(classic._jsparkSession.sessionState().newHadoopConf())
    return system, place.makeQualified(system.getUri(), system.getWorkingDirectory())


def reason(error: BaseException) -> str:
    """The first line of what went wrong, behind whatever Java wrapped around it."""
    java = getattr(error, "java_exception", None)
    while java is not None and java.getCause() is not None:
        java = java.getCause()
    text = str(error) if java is None else str(java.getMessage())
    return text.strip().splitlines()[0] if text.strip() else type(error).__name__


def collect(frame: DataFrame) -> list[dict[str, Any]]:
    """The rows of `frame`, with binary cells as buffers.

    As Arrow where there is `toArrow` (Spark 4.0 and later): rows are pickled in the JVM otherwise,
    and copied several times over.
    """
    if _MAJOR < 4:
        return [row.asDict() for row in frame.collect()]
    table = cast("Any", frame).toArrow()
    return [row for batch in table.to_batches() for row in rows_of(batch)]


def batch_udf(
    function: udf.BatchFunction,
    inputs: list[DataType],
    result: DataType,
    *,
    deterministic: bool = True,
) -> Callable[..., Column]:
    """A scalar iterator UDF out of a function on batches of Arrow arrays.

    Parameters
    ----------
    function : callable
        Takes an iterator of tuples of Arrow arrays, one array a column, and yields Arrow arrays of
        type `result`, as many rows in all.
    inputs : list of DataType
        The Spark types of the columns.
    result : DataType
        The Spark type of the result.
    deterministic : bool, default=True
        Whether a row's result depends on that row alone, so that Spark may leave rows out.

    Returns
    -------
    callable
        Takes the columns, returns the result's column.
    """
    # The hints tell Spark the kind of the UDF. Neither function may touch a name of this package:
    # it is pickled as it stands, and must load in a worker that lacks the package.
    if has_arrow_udf():
        run = guarded(functools.partial(udf.on_arrow, function))

        def on_arrow(batches: Iterator[tuple[pa.Array, ...]]) -> Iterator[pa.Array]:
            return run(batches)

        return _finished(_FUNCTIONS.arrow_udf(on_arrow, result), deterministic)

    # Before Spark 4.1 scalar functions get pandas columns only.
    import pandas as pd

    arrow_types = [to_arrow_type(each) for each in inputs]
    run = guarded(functools.partial(udf.on_pandas, function, arrow_types))

    def on_pandas(batches: Any) -> Any:
        return run(batches)

    on_pandas.__annotations__ = {
        "batches": Iterator[tuple[pd.Series, ...]],
        "return": Iterator[pd.Series],
    }
    return _finished(_FUNCTIONS.pandas_udf(on_pandas, result), deterministic)


def _finished(made: Any, deterministic: bool) -> Callable[..., Column]:
    return cast("Callable[..., Column]", made if deterministic else made.asNondeterministic())
