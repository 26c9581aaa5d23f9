"""
Nearest airports on a map
=========================

Find the nearest airports on the globe, in kilometers, and the nearest of the same country.

The package ``airportsdata`` has 7,883 airports with an IATA code (``pip install airportsdata``).
"""

from importlib.util import find_spec
from pathlib import Path

import pandas as pd
from matplotlib import pyplot as plt
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from pyspark_knn import KNNEstimator

spark = (
    SparkSession.builder.master("local[2]").config("spark.sql.shuffle.partitions", 2).getOrCreate()
)
path = Path(find_spec("airportsdata").origin).with_name("airports.csv")
# "NA" is Namibia, not a missing value.
table = pd.read_csv(path, keep_default_na=False)
table = table[table.iata != ""][["iata", "name", "country", "lat", "lon"]]

# %%
# ``haversine`` takes the latitude and the longitude in radians, in this order. The radius of the
# earth makes kilometers of its distances.

position = F.array(F.radians("lat"), F.radians("lon")).alias("features")
airports = spark.createDataFrame(table).select("*", position)
km = {"radius": 6371.0088}
knn = KNNEstimator(k=8, metric="haversine", metricParams=km, idCol="iata", excludeIdCol="iata")
geneva = airports.where("iata = 'GVA'")
anywhere = knn.fit(airports).kneighborsJoin(geneva, items=airports)
anywhere.selectExpr("rank", "item.iata", "item.country", "round(distance) AS km").show()

# %%
# With ``keyCols``, a query gets the nearest of the items that have its own country.

same = knn.copy({knn.keyCols: ["country"]}).fit(airports).kneighborsJoin(geneva, items=airports)
same.selectExpr("rank", "item.iata", "item.country", "round(distance) AS km").show()

# %%
# Airports near Geneva, and the lines to the neighbors.

figure, ax = plt.subplots(figsize=(8, 5), layout="constrained")
around = table[table.lat.between(45, 48) & table.lon.between(4, 9.5)]
ax.plot(around.lon, around.lat, ".", color="0.7")
for pairs, color, label in ((anywhere, "C0", "any country"), (same, "C3", "same country")):
    for row in pairs.orderBy("rank").collect():
        lons, lats = (row.lon, row.item.lon), (row.lat, row.item.lat)
        ax.plot(lons, lats, color=color, label=label if row["rank"] == 1 else None, alpha=0.7)
        ax.annotate(row.item.iata, (row.item.lon, row.item.lat), fontsize=8)
ax.set_xlabel("longitude")
ax.set_ylabel("latitude")
ax.set_aspect(1.45)
ax.legend()
plt.show()
