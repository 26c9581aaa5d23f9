"""The choice of the storage, from what the packed items count."""

from types import SimpleNamespace
from typing import Any

import pytest

from pyspark_knn.engine import storing
from pyspark_knn.engine.storing import choose_storage
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.distances import resolve_metric

COSINE = IndexSpec(resolve_metric("cosine"))
GIB = 1 << 30
MIN_FEATURES, SPARSE_SHARE = 256, 16


@pytest.fixture(autouse=True)
def _limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits of the tests, whatever those of the package are."""
    monkeypatch.setattr(storing, "MIN_FEATURES", MIN_FEATURES)
    monkeypatch.setattr(storing, "SPARSE_SHARE", SPARSE_SHARE)


def packed(features: int, stored: int, items: int = 10, sizes: tuple[int, int] = (0, 0)) -> Any:
    """What `choose_storage` reads of packed items that store `stored` values in all."""
    return SimpleNamespace(
        num_items=items,
        num_features=features,
        stored=stored,
        sparse_size=lambda: sizes,
        nbytes=lambda storage: sizes[storage == "dense"],
        source=SimpleNamespace(features_col="vec"),
    )


def test_the_share_of_stored_values_decides():
    most = 10 * 4096 // SPARSE_SHARE
    storage, reason = choose_storage("auto", packed(4096, most), COSINE, "hash")
    assert storage == "sparse"
    assert reason == (
        f"items store {most / 10:,.1f} of 4,096 values on average, at most 1 in {SPARSE_SHARE}"
    )
    storage, reason = choose_storage("auto", packed(4096, most + 1), COSINE, "hash")
    assert storage == "dense"
    assert reason.endswith(f"more than 1 in {SPARSE_SHARE}")


def test_large_items_are_sparse_where_that_saves_much():
    def choose(sizes: tuple[int, int]) -> tuple[str, str]:
        return choose_storage("auto", packed(4096, 4000, sizes=sizes), COSINE, "hash")

    storage, reason = choose((GIB, 4 * GIB))
    assert storage == "sparse"
    assert reason.endswith("on average, which takes 1.00 GiB instead of 4.00 GiB")
    assert choose((GIB + 1, 4 * GIB))[0] == "dense"
    assert choose((GIB // 8, 2 * GIB))[0] == "dense"


def test_few_features_are_dense():
    assert choose_storage("auto", packed(MIN_FEATURES, 0), COSINE, "hash")[0] == "sparse"
    assert choose_storage("auto", packed(MIN_FEATURES - 1, 0), COSINE, "hash")[0] == "dense"


@pytest.mark.parametrize("requested", ["dense", "sparse"])
def test_a_request_is_kept(requested):
    for features, stored in ((3, 30), (1 << 20, 5)):
        storage, reason = choose_storage(requested, packed(features, stored), COSINE, "hash")
        assert storage == requested
        assert reason.startswith(f"storage {requested!r} was requested; items store")


@pytest.mark.parametrize(
    ("spec", "shard_by", "reason"),
    [
        (IndexSpec(resolve_metric("cityblock")), "hash", "metric 'cityblock' requires dense"),
        (IndexSpec(resolve_metric("minkowski", 3)), "hash", "metric 'minkowski' requires dense"),
        (IndexSpec(resolve_metric("l2"), "ball_tree"), "hash", "algorithm 'ball_tree' requires"),
        (IndexSpec(resolve_metric("l2")), "kmeans", "shardBy 'kmeans' requires dense vectors"),
    ],
)
def test_items_that_cannot_be_sparse_are_dense_or_refused(spec, shard_by, reason):
    storage, found = choose_storage("auto", packed(1 << 20, 50), spec, shard_by)
    assert storage == "dense"
    assert found.startswith(reason)
    huge = packed(1 << 20, 50, sizes=(GIB // 50, 3 * GIB))
    with pytest.raises(ValueError, match="featuresCol 'vec' contains sparse") as raised:
        choose_storage("auto", huge, spec, shard_by)
    assert "from 20.5 MiB to 3.00 GiB" in str(raised.value)
    assert reason[1:] in str(raised.value)
    assert "storage='sparse'" not in str(raised.value)


def test_huge_items_that_can_be_sparse_are_refused_with_that_advice():
    huge = packed(1 << 20, 50, sizes=(GIB // 50, 3 * GIB))
    assert choose_storage("auto", huge, COSINE, "hash")[0] == "sparse"
    with pytest.raises(ValueError, match=r"Use storage='sparse' \(or 'auto'\)"):
        choose_storage("dense", huge, COSINE, "hash")
