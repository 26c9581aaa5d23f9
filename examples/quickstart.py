"""Find countries with a similar history, by life expectancy and income over half a century.

The Gapminder data set, which plotly includes, contains the life expectancy and the income per
person of 142 countries in twelve years from 1952 to 2007. This script converts them to vectors with
MLlib stages, searches for the nearest countries, prints their names, and saves and loads the whole
pipeline.

Run it with `make demo`, or with `pip install 'pyspark_knn[spark]' plotly` and Java 17.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import plotly.data
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.feature import PCA, StandardScaler, VectorAssembler
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pyspark_knn import KNNEstimator

QUERIES = ["Germany", "Japan", "Brazil", "Kenya", "Vietnam"]


def read_countries(spark: SparkSession) -> DataFrame:
    """Return one row per country: its name, its continent, and two values for each year."""
    rows = spark.createDataFrame(plotly.data.gapminder())
    return (
        rows.groupBy("country", "continent")
        .pivot("year")
        .agg(
            F.first("lifeExp").alias("life"),
            # In log2, doubling the income is the same step for poor and rich countries.
            F.log2(F.first("gdpPercap")).alias("income"),
        )
    )


def build_pipeline(columns: list[str]) -> Pipeline:
    """Return MLlib stages, followed by the search."""
    return Pipeline(
        stages=[
            VectorAssembler(inputCols=columns, outputCol="figures"),
            StandardScaler(withMean=True, inputCol="figures", outputCol="scaled"),
            PCA(k=6, inputCol="scaled", outputCol="features"),
            # Without excludeIdCol, the nearest neighbor of a country is the country itself.
            KNNEstimator(k=4, idCol="country", excludeIdCol="country"),
        ]
    )


def print_neighbors(model: PipelineModel, countries: DataFrame) -> None:
    """Print the names and distances of the nearest countries for each of QUERIES."""
    *preparation, search = model.stages
    queries = PipelineModel(preparation).transform(countries.filter(F.col("country").isin(QUERIES)))
    pairs = search.kneighborsJoin(queries, items=countries).orderBy("country", "rank")
    country = None
    for row in pairs.select("country", "item", "distance").collect():
        if row.country != country:
            print(f"\n  {row.country} is most similar to")
            country = row.country
        print(f"    {row.distance:5.2f}  {row.item.country}, {row.item.continent}")


def main() -> None:
    """Fit, print, save, load and compare."""
    # Workers must run the same Python as this script, not any python3 on PATH.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    spark = (
        SparkSession.builder.master("local[2]")
        .appName("pyspark_knn quickstart")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.sql.shuffle.partitions", "4")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")

    countries = read_countries(spark).cache()
    figures = [name for name in countries.columns if name.endswith(("_life", "_income"))]
    print(f"{countries.count()} countries with {len(figures)} values each")

    start = time.perf_counter()
    model = build_pipeline(figures).fit(countries)
    print(f"fitted in {time.perf_counter() - start:.1f} s: {model.stages[-1]}")
    print_neighbors(model, countries)

    with tempfile.TemporaryDirectory() as folder:
        path = (Path(folder) / "countries").as_uri()
        model.save(path)
        loaded = PipelineModel.load(path)
        outputs = ["country", "neighbors", "distances"]
        before = model.transform(countries).select(outputs).orderBy("country").collect()
        after = loaded.transform(countries).select(outputs).orderBy("country").collect()
    if before != after:
        raise SystemExit("the loaded pipeline returns a different answer")
    print(f"\nThe loaded pipeline returns the same answer for all {len(after)} countries.")
    spark.stop()


if __name__ == "__main__":
    main()
