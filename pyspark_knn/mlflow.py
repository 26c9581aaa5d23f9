"""Log models to MLflow, so that its generic interface, pyfunc, answers with neighbors as well.

The models are those that `mlflow.spark` writes, and `mlflow.spark.load_model` loads them. They
differ in what pyfunc returns: a pandas DataFrame of the columns that the model adds, where
`mlflow.spark` returns the column "prediction" only. pyfunc loads them by this module, so nothing is
pickled.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyspark.ml import PipelineModel, Transformer

from pyspark_knn.engine.spark import compat
from pyspark_knn.index.registry import approximate_classes
from pyspark_knn.models.for_pandas import PandasModel, in_python

try:
    import mlflow.models
    import mlflow.pyfunc
    import mlflow.pyspark.ml
    import mlflow.spark
    from mlflow.types.schema import SparkMLVector
except ModuleNotFoundError as missing:
    if missing.name != "mlflow":
        raise
    raise ModuleNotFoundError(
        "pyspark_knn.mlflow requires MLflow. Run pip install 'pyspark_knn[mlflow]'.", name="mlflow"
    ) from missing

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.models.model import ModelInfo

FLAVOR_NAME = "pyspark_knn"
"""The name of this flavor in the file MLmodel."""

_OUTPUT_COLS = "output_cols"
"""The key of `output_cols` in the configuration of a pyfunc model."""


def log_model(model: Transformer, name: str | None = None, **kwargs: Any) -> ModelInfo:
    """Log a model to the active run, or to a new one.

    Parameters
    ----------
    model : Transformer
        A fitted model of this package, or a `PipelineModel`.
    name : str, optional
        The name of the model in MLflow.
    **kwargs
        Arguments of `save_model` and of `mlflow.models.Model.log`, such as
        ``registered_model_name``.

    Returns
    -------
    ModelInfo
        What MLflow knows of the model, such as its ``model_uri``.
    """
    flavor = sys.modules[__name__]
    return mlflow.models.Model.log(None, flavor, name=name, model=model, **kwargs)


def save_model(
    model: Transformer,
    path: str,
    *,
    output_cols: list[str] | str | None = None,
    mlflow_model: Any = None,
    signature: ModelSignature | None = None,
    input_example: pd.DataFrame | None = None,
    conda_env: Any = None,
    pip_requirements: Any = None,
    extra_pip_requirements: list[str] | str | None = None,
    **kwargs: Any,
) -> None:
    """Save a model to a local folder in the format of MLflow.

    Parameters
    ----------
    model : Transformer
        A fitted model of this package, or a `PipelineModel`.
    path : str
        The folder to write, which must not exist.
    output_cols : list of str or str, optional
        The columns that pyfunc returns, or the name of one that it returns as a Series. Default:
        all columns that the last stage adds.
    mlflow_model : Model, optional
        The configuration to add the model to.
    signature : ModelSignature, optional
        The columns of queries and answers. Default: those of `input_example`, if it is given.
    input_example : pandas.DataFrame, optional
        A few queries, which are saved with the model. The model must be able to answer them.
    conda_env : dict or str, optional
        A conda environment that replaces the requirements.
    pip_requirements : list of str or str, optional
        The requirements, or the path of a file of them. Default: those of
        `get_default_pip_requirements`. To find them, MLflow does not load the model in a second
        Spark, unlike for `mlflow.spark`.
    extra_pip_requirements : list of str or str, optional
        Requirements in addition to the default ones, or the path of a file of them.
    **kwargs
        Arguments of `mlflow.spark.save_model`, such as ``metadata`` or ``dfs_tmpdir``.

    Raises
    ------
    TypeError
        If `input_example` is not a pandas DataFrame.
    ValueError
        If the answers to `input_example` do not have the columns of `output_cols`, or on a client
        of Spark Connect without a JVM.
    """
    if input_example is not None:
        input_example = in_python("input_example", input_example)
        if signature is None:
            served = PandasModel(compat.active_session("input_example"), model, output_cols)
            answers = served.predict(input_example)
            signature = mlflow.models.infer_signature(input_example, answers)
    if conda_env is None and pip_requirements is None:
        more = extra_pip_requirements or []
        more = [f"-r {more}"] if isinstance(more, str) else more
        pip_requirements = [*get_default_pip_requirements(model), *more]
        extra_pip_requirements = None
    written = mlflow.models.Model() if mlflow_model is None else mlflow_model
    written.add_flavor(
        FLAVOR_NAME,
        pyspark_knn_version=_version("pyspark_knn"),
        is_pipeline=isinstance(model, PipelineModel),
    )
    with _jvm_required():
        mlflow.spark.save_model(
            model,
            path,
            mlflow_model=written,
            # False: mlflow.spark would infer it from a column "prediction".
            signature=False if signature is None else signature,
            input_example=input_example,
            conda_env=conda_env,
            pip_requirements=pip_requirements,
            extra_pip_requirements=extra_pip_requirements,
            **kwargs,
        )
    written.flavors[mlflow.pyfunc.FLAVOR_NAME] |= {
        mlflow.pyfunc.MAIN: __name__,
        mlflow.pyfunc.MODEL_CONFIG: {_OUTPUT_COLS: output_cols},
    }
    written.save(str(Path(path, "MLmodel")))


def load_model(model_uri: str, **kwargs: Any) -> Transformer:
    """Load a model that was logged or saved by this module or by `mlflow.spark`.

    Parameters
    ----------
    model_uri : str
        The address of the model, such as ``models:/name/1`` or the ``model_uri`` of `log_model`.
    **kwargs
        Arguments of `mlflow.spark.load_model`.

    Returns
    -------
    Transformer
        The model, of the class that was logged. `mlflow.spark` logs and loads a `PipelineModel`.
    """
    flavors = mlflow.models.get_model_info(model_uri).flavors
    with _jvm_required():
        loaded: PipelineModel = mlflow.spark.load_model(model_uri, **kwargs)
    is_pipeline = flavors.get(FLAVOR_NAME, {}).get("is_pipeline", True)
    return loaded if is_pipeline else loaded.stages[0]


def autolog(*, log_model_allowlist: list[str] | None = None, **kwargs: Any) -> None:
    """Log each fit of a Spark estimator, with the models of this package.

    This is `mlflow.pyspark.ml.autolog`, which logs only models on a list of class names.

    Parameters
    ----------
    log_model_allowlist : list of str, optional
        The names of the classes of other packages whose models are logged. Default: MLflow's list.
    **kwargs
        Arguments of `mlflow.pyspark.ml.autolog`.
    """
    listed = log_model_allowlist
    if listed is None:
        text = resources.files("mlflow.pyspark.ml").joinpath("log_model_allowlist.txt").read_text()
        lines = map(str.strip, text.splitlines())
        listed = [line for line in lines if line and not line.startswith("#")]
    allowed = [*listed, "pyspark_knn.*"]
    mlflow.pyspark.ml.autolog(log_model_allowlist=allowed, **kwargs)


def get_default_pip_requirements(model: Transformer) -> list[str]:
    """Return the packages that a model requires, with their installed versions.

    Parameters
    ----------
    model : Transformer
        A fitted model of this package, or a `PipelineModel`.

    Returns
    -------
    list of str
        The packages of this library, of the classes of the stages, and of their indexes.
    """
    modules = {"pyspark_knn", "pyspark"}
    classes = approximate_classes()
    for stage in _stages(model):
        modules.add(type(stage).__module__.partition(".")[0])
        algorithm = stage.getOrDefault("algorithm") if stage.hasParam("algorithm") else None
        if algorithm in classes:
            modules.add(classes[algorithm].library)
    return [_requirement(module) for module in sorted(modules)]


def _stages(model: Any) -> Iterator[Any]:
    """Return the model and, of a pipeline or a grid search, the models in it."""
    yield model
    parts = [*getattr(model, "stages", ()), getattr(model, "bestModel", None)]
    for part in parts:
        if part is not None:
            yield from _stages(part)


def _requirement(module: str) -> str:
    packages = metadata.packages_distributions().get(module, [module])
    version = _version(packages[0])
    return packages[0] if version is None else f"{packages[0]}=={version}"


def _version(package: str) -> str | None:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None  # a copy that is not installed, such as the one of supply_package


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> PandasModel:
    """Load a model for pyfunc, which calls this function; `path` is the folder of the stages."""
    # It finds the session, or starts one, and copies the files to where Spark can read them.
    with _jvm_required():
        loaded = importlib.import_module("mlflow.spark")._load_pyfunc(path)
    signature = mlflow.models.Model.load(str(Path(path).parent)).signature
    inputs = signature.inputs.inputs if signature and signature.inputs else []
    vectors = [each.name for each in inputs if isinstance(each.type, SparkMLVector)]
    output_cols = (model_config or {}).get(_OUTPUT_COLS)
    return PandasModel(loaded.spark, loaded.get_raw_model(), output_cols, vectors)


@contextlib.contextmanager
def _jvm_required() -> Iterator[None]:
    """Explain the error of `mlflow.spark` on a Spark Connect client."""
    try:
        yield
    except (AttributeError, ImportError) as error:
        if "jvm" not in str(error) and "SparkContext" not in str(error):
            raise
        raise ValueError(
            "MLflow copies the files of Spark models by the JVM of a classic Spark session, which "
            "this client of Spark Connect does not have. Log and load the model in a classic "
            "session."
        ) from error
