"""Match treated to untreated people within exact strata, by their propensity scores.

The data are those of Dehejia and Wahba (1999): 185 people who took part in a job training program
(NSW), and 15,992 people of a survey of the whole population (CPS-1), who did not. The survey is no
proper control group: its people are older, more often married, and earned far more. Matching
selects the comparable ones. NSW was an experiment with a control group of its own, so its estimate
of the effect on earnings is known, and the results can be compared with it.

1. MLlib's LogisticRegression estimates the propensity: the probability of being treated.
2. `keyCols` makes the strata exact: people are compared only with those of the same ethnicity, and
   with or without a degree like them. The only feature is the logit of the propensity, and
   `maxDistance` is the caliper.
3. Matching with replacement takes the nearest untreated person of each treated one, so some of them
   occur in several pairs. Matching without replacement is a greedy choice from the nearest
   candidates, the closest pairs first. A treated person whose candidates are all taken gets no
   match, so the estimate is that of the others.

    pip install 'pyspark_knn[spark]' causaldata==0.1.5
    python examples/matching_treated.py

The data are in the public domain, the license of the package causaldata is MIT.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.feature import VectorAssembler
from pyspark.ml.functions import vector_to_array
from pyspark.sql import Column, DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from pyspark_knn import KNNEstimator

COVARIATES = ["age", "educ", "nodegree", "black", "hisp", "marr", "re74", "re75"]
STRATA = ["ethnicity", "nodegree"]
CANDIDATES = 20


def read_people(spark: SparkSession) -> tuple[DataFrame, float]:
    """Return the treated and the people of the survey, and the effect that the experiment found."""
    package = find_spec("causaldata")
    if package is None or package.origin is None:
        raise SystemExit("The data are missing: pip install causaldata==0.1.5")
    # The package itself is not imported: that would import statsmodels.
    folder = Path(package.origin).parent
    experiment = pd.read_stata(folder / "nsw_mixtape" / "nsw_mixtape.dta")
    survey = pd.read_stata(folder / "cps_mixtape" / "cps_mixtape.dta")
    earnings = experiment.groupby("treat")["re78"].mean()
    rows = pd.concat([experiment[experiment["treat"] == 1], survey], ignore_index=True)
    people = spark.createDataFrame(rows.drop(columns="data_id").reset_index(names="id"))
    ethnicity = "CASE WHEN black = 1 THEN 'black' WHEN hisp = 1 THEN 'hispanic' ELSE 'other' END"
    return people.withColumn("ethnicity", F.expr(ethnicity)), earnings[1] - earnings[0]


def add_logit(people: DataFrame) -> DataFrame:
    """Add the logit of the propensity, as a number and as an array of one feature."""
    terms = people.selectExpr(
        "*", "power(age, 2) AS age2", "double(re74 = 0) AS none74", "double(re75 = 0) AS none75"
    )
    inputs = [*COVARIATES, "age2", "none74", "none75"]
    assembled = VectorAssembler(inputCols=inputs, outputCol="terms").transform(terms)
    fitted = LogisticRegression(featuresCol="terms", labelCol="treat").fit(assembled)
    logit = vector_to_array("rawPrediction")[1]
    scored = fitted.transform(assembled).select(*people.columns, logit.alias("logit"))
    return scored.withColumn("features", F.array("logit"))


def match_once(pairs: DataFrame) -> DataFrame:
    """Choose pairs without replacement, the closest first; each person occurs in one pair at most.

    `pairs` has the candidates of each treated person. They are few, so the choice is made on the
    driver.
    """
    chosen, taken = {}, set()
    for row in pairs.orderBy("distance", "id", "neighbor").select("id", "neighbor").collect():
        if row.id not in chosen and row.neighbor not in taken:
            chosen[row.id] = row.neighbor
            taken.add(row.neighbor)
    matches = pairs.sparkSession.createDataFrame(list(chosen.items()), ["id", "neighbor"])
    return pairs.join(matches, ["id", "neighbor"])


def summarize(rows: DataFrame, *more: Column) -> Row:
    """Return the means of the covariates and of the earnings in 1978, in one Spark job."""
    return rows.select(*(F.mean(name).alias(name) for name in [*COVARIATES, "re78"]), *more).first()


def print_comparison(treated: DataFrame, untreated: DataFrame, matched: dict) -> None:
    """Print the balance and the difference of the earnings, without a match and for each way."""
    spreads = treated.select(*(F.stddev(name).alias(name) for name in COVARIATES)).first()
    means = {"not matched": (summarize(treated), summarize(untreated))}
    counts = {"not matched": ""}
    for way, pairs in matched.items():
        people = F.count_distinct("id").alias("people")
        ours, theirs = summarize(pairs), summarize(pairs.select("item.*"), people)
        means[way] = ours, theirs
        counts[way] = f"  {pairs.count()} pairs with {theirs.people} untreated people"

    print("\nDifferences of the means, in standard deviations of the treated:")
    print(f"{'':20}" + "".join(f"{name:>10}" for name in COVARIATES))
    for way, (ours, theirs) in means.items():
        differences = [(ours[name] - theirs[name]) / spreads[name] for name in COVARIATES]
        print(f"{way:20}" + "".join(f"{each:10.2f}" for each in differences))
    print("\nDifferences of the earnings in 1978, in dollars:")
    for way, (ours, theirs) in means.items():
        print(f"{way:20}{ours.re78 - theirs.re78:10,.0f}{counts[way]}")


def main() -> None:
    """Estimate the propensity, match in both ways, and print the balance and the effect."""
    # Workers must run the same Python as this script, not any python3 on PATH.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    spark = (
        SparkSession.builder.master("local[2]")
        .appName("pyspark_knn matching treated")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.sql.shuffle.partitions", "4")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")

    people, effect = read_people(spark)
    people = add_logit(people).cache()
    treated, untreated = people.where("treat = 1"), people.where("treat = 0")
    # A common choice of the caliper: a fifth of the standard deviation of the logit.
    caliper = 0.2 * people.select(F.stddev("logit")).first()[0]
    model = KNNEstimator(k=1, idCol="id", keyCols=STRATA, maxDistance=caliper).fit(untreated)
    print(f"{treated.count()} treated, {model.numItems:,} untreated, caliper {caliper:.2f}")

    nearest = model.kneighborsJoin(treated, items=untreated)
    candidates = model.copy({model.k: CANDIDATES}).kneighborsJoin(treated, items=untreated)
    matched = {
        "with replacement": nearest.cache(),
        "without replacement": match_once(candidates.cache()).cache(),
    }
    print_comparison(treated, untreated, matched)
    print(f"{'the experiment':20}{effect:10,.0f}")
    spark.stop()


if __name__ == "__main__":
    main()
