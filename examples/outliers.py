"""Find unusual tumors: outliers among the items, and novelty of further rows.

The breast cancer data set, which scikit-learn includes, describes 569 tumors by 30 measurements of
cell nuclei, and tells which are malignant. Two questions have two answers:

- Which of these rows are outliers? The rows are all 357 benign and 30 malignant tumors. `fit`
  compares each of them with the others, and `model.scores` has the result.
- Is a new row unlike the known ones? `fit` gets half of the benign tumors, and `transform` compares
  every other tumor with them.

The area under the ROC curve tells how well the scores separate malignant from benign tumors: 1 is
perfect, 0.5 is chance. scikit-learn computes the same areas.

    pip install 'pyspark_knn[spark]'
    python examples/outliers.py
"""

from __future__ import annotations

import os
import sys

import numpy as np
from pyspark.ml import Pipeline
from pyspark.ml.evaluation import BinaryClassificationEvaluator
from pyspark.ml.feature import StandardScaler, VectorAssembler
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import LocalOutlierFactor as SklearnFactor

from pyspark_knn import LocalOutlierFactor

K, MALIGNANT = 40, 30


def read_tumors(spark: SparkSession) -> tuple[DataFrame, list[str]]:
    """Return the measurements, an id and the label of each tumor, and the names of the former."""
    data = load_breast_cancer(as_frame=True)
    table = data.frame.rename(columns={name: name.replace(" ", "_") for name in data.frame})
    names = [name for name in table if name != "target"]
    table = table.assign(id=np.arange(len(table)), malignant=1.0 - table["target"])
    # The rank of a tumor among those of its kind.
    table["rank"] = table.groupby("malignant").cumcount()
    return spark.createDataFrame(table.drop(columns="target")), names


def build_pipeline(names: list[str]) -> Pipeline:
    """Return MLlib stages that scale the measurements, followed by the outlier detector."""
    return Pipeline(
        stages=[
            VectorAssembler(inputCols=names, outputCol="measured"),
            StandardScaler(withMean=True, inputCol="measured", outputCol="features"),
            LocalOutlierFactor(k=K, contamination=0.08, idCol="id"),
        ]
    )


def area(scored: DataFrame) -> float:
    """Return the area under the ROC curve of the scores."""
    evaluator = BinaryClassificationEvaluator(rawPredictionCol="outlierScore", labelCol="malignant")
    return evaluator.evaluate(scored)


def of_sklearn(fitted_on: DataFrame, scored: DataFrame, names: list[str], novelty: bool) -> float:
    """Return scikit-learn's area under the ROC curve."""
    items, rows = (each.orderBy("id").toPandas() for each in (fitted_on, scored))
    mean, spread = items[names].mean(), items[names].std()
    detector = SklearnFactor(K, novelty=novelty).fit(((items[names] - mean) / spread).to_numpy())
    if novelty:
        scores = detector.score_samples(((rows[names] - mean) / spread).to_numpy())
    else:
        scores = detector.negative_outlier_factor_
    return float(roc_auc_score(rows["malignant"], -scores))


def print_outliers(tumors: DataFrame, names: list[str]) -> None:
    """Print the strongest outliers among benign and a few malignant tumors."""
    rows = tumors.where((F.col("malignant") == 0) | (F.col("rank") < MALIGNANT))
    *_, model = build_pipeline(names).fit(rows).stages
    scored = model.scores.join(rows, "id").cache()
    print(f"outliers among {model.numItems} tumors, {MALIGNANT} of them malignant")
    for row in scored.orderBy(F.desc("outlierScore")).limit(5).collect():
        kind = "malignant" if row.malignant else "benign"
        print(f"  tumor {row.id:3}  factor {row.outlierScore:.2f}  {kind}")
    found = scored.where("prediction = 1")
    hits = found.where("malignant = 1").count()
    print(f"  {found.count()} factors above {model.threshold:.3f}, {hits} of them malignant")
    print(f"  area under the ROC curve  {area(scored):.4f}")
    print(f"  scikit-learn's            {of_sklearn(rows, rows, names, False):.4f}")


def print_novelty(tumors: DataFrame, names: list[str]) -> None:
    """Print how well malignant tumors are told from benign ones, given benign ones only."""
    known = (F.col("malignant") == 0) & (F.col("rank") % 2 == 0)
    items, rest = tumors.where(known), tumors.where(~known)
    scored = build_pipeline(names).fit(items).transform(rest).cache()
    print(f"\nnovelty of {rest.count()} tumors, given {items.count()} benign ones")
    print(f"  area under the ROC curve  {area(scored):.4f}")
    print(f"  scikit-learn's            {of_sklearn(items, rest, names, True):.4f}")


def main() -> None:
    """Read, score and print."""
    # Workers must run the same Python as this script, not any python3 on PATH.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    spark = (
        SparkSession.builder.master("local[2]")
        .appName("outliers")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.sql.shuffle.partitions", "4")
        .getOrCreate()
    )
    tumors, names = read_tumors(spark)
    tumors.cache()
    print_outliers(tumors, names)
    print_novelty(tumors, names)
    spark.stop()


if __name__ == "__main__":
    main()
