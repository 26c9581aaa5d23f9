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
    chosen, used = [], set()
    for row in pairs.orderBy("distance", "id", "neighbor").select("id", "neighbor").collect():
        if ("treated", row.id) not in used and ("untreated", row.neighbor) not in used:
            used |= {("treated", row.id), ("untreated", row.neighbor)}
            chosen.append((row.id, row.neighbor))
    spark = pairs.sparkSession
    return pairs.join(spark.createDataFrame(chosen, ["id", "neighbor"]), ["id", "neighbor"])


def summarize(rows: DataFrame, *more: Column) -> Row:
    """Return the means of the covariates and of the earnings in 1978, in one Spark job."""
    return rows.select(*(F.mean(name).alias(name) for name in [*COVARIATES, "re78"]), *more).first()


def print_balance(name: str, ours: Row, theirs: Row, spreads: Row) -> None:
    """Print the differences of the means, in standard deviations of the treated."""
    differences = [(ours[each] - theirs[each]) / spreads[each] for each in COVARIATES]
    print(f"{name:20}" + "".join(f"{each:10.2f}" for each in differences))


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

    candidates = model.copy({model.k: CANDIDATES}).kneighborsJoin(treated, items=untreated)
    matched = {
        "with replacement": model.kneighborsJoin(treated, items=untreated),
        "without replacement": match_once(candidates.cache()),
    }
    spreads = treated.select(*(F.stddev(name).alias(name) for name in COVARIATES)).first()
    everyone = summarize(treated), summarize(untreated)
    print("\nStandardized mean differences of treated and untreated:")
    print(f"{'':20}" + "".join(f"{name:>10}" for name in COVARIATES))
    print_balance("not matched", *everyone, spreads)
    earnings = [f"{'not matched':20}{everyone[0].re78 - everyone[1].re78:10,.0f}"]
    for name, pairs in matched.items():
        pairs = pairs.cache()
        ours = summarize(pairs, F.count("*").alias("pairs"))
        persons = F.count_distinct("id").alias("persons")
        theirs = summarize(pairs.select("item.*"), persons)
        print_balance(name, ours, theirs, spreads)
        difference = ours.re78 - theirs.re78
        counts = f"{ours.pairs} pairs with {theirs.persons} untreated people"
        earnings.append(f"{name:20}{difference:10,.0f}  {counts}")

    print("\nDifference of their earnings in 1978, in dollars:")
    print("\n".join(earnings))
    print(f"{'the experiment':20}{effect:10,.0f}")
    spark.stop()


if __name__ == "__main__":
    main()
