"""Run the lines of a session as if they were typed, and print them with what Python answers."""

import code
import contextlib
import io
import sys

LINES = """
from pyspark.sql import SparkSession
spark = SparkSession.builder.master("local[2]").getOrCreate()
from pyspark_knn import KNNEstimator
items = spark.createDataFrame([("a", [0.0, 0.0]), ("b", [3.0, 4.0])], ["id", "features"])
model = KNNEstimator(n_neighbors=1, idCol="id").fit(items)
model = KNNEstimator(k=1, idCol="id").fit(items)
query = spark.createDataFrame([([3.0, 3.0],)], ["features"])
model.transform(query).show()
model.kneighborsJoin(query, items=items).show()
model.setFeaturesCol("vector").transform(query)
model.setFeaturesCol("features")
model.kneighbors([1.0, 2.0, 3.0])
model.kneighbors([1.0, 2.0])
print(model.explainSearch(query))
"""


def main() -> None:
    """Print the session; of an error only the last line."""
    console = code.InteractiveConsole()
    for line in LINES.strip().splitlines():
        print(f">>> {line}", flush=True)
        answer = io.StringIO()
        with contextlib.redirect_stdout(answer), contextlib.redirect_stderr(answer):
            console.push(line)
        text = answer.getvalue().rstrip()
        if text.startswith("Traceback"):
            text = "...\n" + text.splitlines()[-1]
        if text:
            print(text, flush=True)
    sys.stdout.flush()


main()
