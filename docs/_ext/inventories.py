"""Inventories of other projects for intersphinx, without the network.

The build needs no network, and is the same wherever and whenever it runs. So the few names that the
docs link to are listed here, and written as inventories that intersphinx reads.
"""

from __future__ import annotations

import zlib
from pathlib import Path

SPARK = "https://spark.apache.org/docs/latest/api/python/"
SQL = "reference/pyspark.sql/api/$.html#$"
ML = "reference/api/$.html#$"

NAMES = {
    "python": (
        "https://docs.python.org/3/",
        {
            **{
                name: ("py:class", f"library/functions.html#{name}")
                for name in ("bool", "float", "int")
            },
            **{
                name: ("py:class", f"library/stdtypes.html#{name}")
                for name in ("dict", "list", "str")
            },
            "tuple": ("py:class", "library/stdtypes.html#tuple"),
            "None": ("py:data", "library/constants.html#$"),
            "copy.copy": ("py:function", "library/copy.html#$"),
            "dir": ("py:function", "library/functions.html#$"),
            "bltin-boolean-values": ("std:label", "library/stdtypes.html#boolean-type-bool"),
            "sequence": ("std:term", "glossary.html#term-$"),
            "TypeError": ("py:exception", "library/exceptions.html#TypeError"),
            "ValueError": ("py:exception", "library/exceptions.html#ValueError"),
        },
    ),
    "numpy": (
        "https://numpy.org/doc/stable/",
        {"numpy.ndarray": ("py:class", "reference/generated/$.html#$")},
    ),
    "sklearn": (
        "https://scikit-learn.org/stable/",
        {
            f"sklearn.neighbors.{name}": ("py:class", "modules/generated/$.html#$")
            for name in (
                *("KNeighborsClassifier", "KNeighborsRegressor", "LocalOutlierFactor"),
                *("NearestNeighbors", "RadiusNeighborsClassifier", "RadiusNeighborsRegressor"),
            )
        },
    ),
    "pyspark": (
        SPARK,
        {
            **{f"pyspark.sql.{name}": ("py:class", SQL) for name in ("DataFrame", "SparkSession")},
            **{
                f"pyspark.ml.{name}": ("py:class", ML)
                for name in (
                    *("Estimator", "Model", "Pipeline", "PipelineModel", "Transformer"),
                    *("evaluation.Evaluator", "linalg.Vector", "param.Param", "param.Params"),
                    *("tuning.CrossValidator", "tuning.TrainValidationSplit"),
                    *("util.MLReader", "util.MLWriter"),
                )
            },
        },
    ),
}
"""Base address, and role and place of each name; $ stands for the name."""


def write(folder: Path) -> dict[str, tuple[str, str]]:
    """Write the inventories, and return the value of `intersphinx_mapping`."""
    folder.mkdir(parents=True, exist_ok=True)
    mapping = {}
    for project, (address, names) in NAMES.items():
        lines = [
            f"{name} {role} 1 {place.replace('$', name)} -\n"
            for name, (role, place) in names.items()
        ]
        header = (
            f"# Sphinx inventory version 2\n# Project: {project}\n# Version: \n"
            "# The remainder of this file is compressed using zlib.\n"
        )
        path = folder / f"{project}.inv"
        path.write_bytes(header.encode() + zlib.compress("".join(lines).encode()))
        mapping[project] = (address, str(path))
    return mapping
