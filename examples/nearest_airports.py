"""Find the nearest airports within the same country, and within any of several countries.

The package airportsdata contains the codes, names, countries and coordinates of 28,000 airports,
7,883 of them with an IATA code. `keyCols="country"` limits the search of an airport to the items of
its own country. If the key of a query is an array, the search covers the items of all keys in the
array: here, the countries next to that of the airport.

    pip install 'pyspark_knn[spark]' airportsdata==20260315
    python examples/nearest_airports.py

The license of the data is MIT (https://github.com/mborsetti/airportsdata).
"""

from __future__ import annotations

import os
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pyspark_knn import KNNEstimator, KNNModel

EARTH_RADIUS = 6371.0088  # the mean radius, in km
AIRPORTS = ["FRA", "LUX", "NRT", "WDH"]
ABROAD = {"GVA": ["FR", "IT"], "LUX": ["BE", "DE", "FR"], "SIN": ["ID", "MY"]}


def write_airports(spark: SparkSession, path: str) -> None:
    """Convert the CSV file of the package to Parquet: code, name, country and coordinates."""
    package = find_spec("airportsdata")
    if package is None or package.origin is None:
        raise SystemExit("The data are missing: pip install airportsdata==20260315")
    source = Path(package.origin).with_name("airports.csv")
    rows = spark.read.csv(source.as_uri(), header=True).where("iata IS NOT NULL")
    rows.selectExpr("iata", "name", "country", "double(lat)", "double(lon)").write.parquet(path)


def print_nearest(model: KNNModel, queries: DataFrame, airports: DataFrame) -> None:
    """Print the neighbors of each query, or that it has none."""
    pairs = model.kneighborsJoin(queries, items=airports, how="left").orderBy("iata", "rank")
    for row in pairs.collect():
        if row.rank is None:
            print(f"  {row.iata}  no other airport")
            continue
        start = row.iata if row.rank == 1 else ""
        near = row.item
        print(f"  {start:3}  {row.distance:6.1f} km  {near.iata}, {near.name} ({near.country})")


def main() -> None:
    """Fit on all airports, and search within one country and within several countries."""
    # Workers must run the same Python as this script, not any python3 on PATH.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    spark = (
        SparkSession.builder.master("local[2]")
        .appName("pyspark_knn nearest airports")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.sql.shuffle.partitions", "4")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")

    with tempfile.TemporaryDirectory() as folder:
        path = (Path(folder) / "airports").as_uri()
        write_airports(spark, path)
        # haversine takes the latitude and the longitude in radians, in this order.
        position = F.array(F.radians("lat"), F.radians("lon")).alias("features")
        airports = spark.read.parquet(path).select("*", position)
        model = KNNEstimator(
            k=3,
            metric="haversine",
            metricParams={"radius": EARTH_RADIUS},
            idCol="iata",
            excludeIdCol="iata",
            keyCols="country",
        ).fit(airports)
        countries = airports.select("country").distinct().count()
        print(f"{model.numItems:,} airports in {countries} countries")

        print("\nThe nearest airports of the same country:")
        print_nearest(model, airports.where(F.col("iata").isin(AIRPORTS)), airports)

        print("\nThe nearest airports of the neighboring countries:")
        neighbors = spark.createDataFrame(list(ABROAD.items()), ["iata", "countries"])
        queries = airports.join(neighbors, "iata")
        abroad = model.copy({model.queryKeyCols: ["countries"]})
        print_nearest(abroad, queries, airports)

        # The first of these pairs reveals an error in the data: Ramon Airport is in Israel (IL).
        print("\nThe remotest airports of their countries:")
        nearest = model.copy({model.k: 1}).kneighborsJoin(airports, items=airports)
        for row in nearest.orderBy(F.desc("distance"), "iata").limit(3).collect():
            print(f"  {row.distance:6.1f} km from {row.name} to {row.item.name} ({row.country})")
    spark.stop()


if __name__ == "__main__":
    main()
