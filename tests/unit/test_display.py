"""How stages are shown, as text and as HTML."""

from __future__ import annotations

import math
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from pyspark.ml import Pipeline
from pyspark.ml.tuning import ParamGridBuilder
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

import pyspark_knn
from pyspark_knn import (
    KNNClassificationModel,
    KNNEstimator,
    KNNImputer,
    KNNModel,
    KNNRegressor,
    SharedPrefixPipeline,
)

STAGES = [name for name in pyspark_knn.__all__ if name != "supply_package"]
VOID = {"br"}


class _Checker(HTMLParser):
    """Collects the text, and checks that every tag is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text = " ".join([*self.text.split(), *data.split(), ""])


def html_of(stage: Any) -> _Checker:
    checker = _Checker()
    checker.feed(stage._repr_html_())
    checker.close()
    assert checker.open == []
    return checker


def with_uid(stage: Any, uid: str) -> Any:
    stage._resetUid(uid)
    return stage


def test_an_estimator_shows_what_differs_from_the_defaults() -> None:
    knn = KNNEstimator(k=3, idCol="item id", metric="euclidean", maxDistance=None, leafSize=30)
    assert repr(with_uid(knn, "u")) == "u(idCol='item id', k=3)"
    assert repr(with_uid(KNNEstimator(), "u")) == "u()"
    assert repr(with_uid(KNNImputer(missingValue=math.nan), "u")) == "u()"
    assert repr(with_uid(KNNImputer(missingValue=-1), "u")) == "u(missingValue=-1.0)"


def test_long_values_are_cut() -> None:
    shown = repr(KNNEstimator(metric="seuclidean", metricParams={"V": np.ones(1000)}))
    assert len(shown) < 200
    assert "metricParams={'V': [1.0, 1.0" in shown
    assert len(html_of(KNNEstimator(metricParams={"V": np.ones(1000)})).text) < 1000


def test_a_model() -> None:
    model = KNNModel.fromSklearn(NearestNeighbors(algorithm="brute").fit(np.eye(3)), list("abc"))
    assert repr(with_uid(model, "u")) == (
        "KNNModel: uid=u, algorithm=brute, placement=replicated, storage=dense, numItems=3, "
        "numFeatures=3, metric=minkowski, k=5, idCol='id'"
    )
    shown = html_of(model)
    for name, value in (("numItems", "3"), ("algorithm", "brute"), ("idCol", "'id'")):
        assert f"{name} {value} " in shown.text
    assert shown.text.count("metric ") == 1
    assert model.copy()._repr_html_() == model._repr_html_()


def test_a_model_with_votes() -> None:
    labels = [0, 1, 1]
    model = KNNClassificationModel.fromSklearn(
        KNeighborsClassifier(n_neighbors=2, weights="distance").fit(np.eye(3), labels)
    )
    assert "numItems=3" in repr(model)
    assert "weights='distance'" in repr(model)
    assert "weights 'distance' " in html_of(model).text


@pytest.mark.parametrize("name", STAGES)
def test_every_stage(name: str) -> None:
    stage = getattr(pyspark_knn, name)()
    assert stage.uid in repr(stage)
    assert f"{name} {stage.uid} " in html_of(stage).text
    assert ("without an index" in repr(stage)) == name.endswith("Model")
    assert ("without an index" in html_of(stage).text) == name.endswith("Model")
    for param in stage.params:
        if stage.isDefined(param):
            assert param.name in html_of(stage).text


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "'><img src=x>", "&amp;\"'"])
def test_html_is_escaped(text: str) -> None:
    plain = html_of(KNNEstimator(idCol="a")).tags
    for stage in (
        with_uid(KNNEstimator(idCol="a"), text),
        KNNEstimator(idCol=text),
        KNNEstimator(metricParams={text: 1}),
    ):
        shown = html_of(stage)
        assert shown.tags == plain
    model = KNNModel.fromSklearn(NearestNeighbors().fit(np.eye(3)))
    tags = html_of(model).tags
    assert html_of(with_uid(model.setNeighborsCol(text), text)).tags.count("th") == tags.count("th")
    assert not {"script", "img"} & set(html_of(model).tags)


def test_pipelines() -> None:
    stages = [with_uid(KNNEstimator(k=3), "a"), with_uid(KNNRegressor(k=7), "b")]
    shared = with_uid(SharedPrefixPipeline(stages=stages), "p")
    assert repr(shared) == "p(stages=[a(k=3), b(k=7)])"
    text = html_of(shared).text
    assert "KNNEstimator a" in text
    assert "KNNRegressor b" in text
    assert "u()" in Pipeline(stages=[with_uid(KNNEstimator(), "u")]).explainParams()


def test_what_mllib_makes_of_stages_does_not_depend_on_the_repr() -> None:
    knn = with_uid(KNNEstimator(k=3), "u")
    assert str(knn.k) == "u__k"
    grid = ParamGridBuilder().addGrid(knn.k, [1, 2]).build()
    assert [knn.copy(each).getK() for each in grid] == [1, 2]
    assert {knn.copy(each).uid for each in grid} == {"u"}
    assert "k: number of neighbors" in knn.explainParams()
