"""Which paths may mean the same folder, and paths as Spark's readers take them."""

import pytest

from pyspark_knn.engine.spark.folders import SavedAt, literal, normalized, overlap


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a/b/", "/a/b"),
        ("/a//b/.", "/a/b"),
        ("/a/x/../b", "/a/b"),
        ("///a/b", "/a/b"),
        ("file:/a/b/", "file:/a/b"),
        ("file:///a/b", "file:/a/b"),
        ("hdfs://nn:8020//a/b/", "hdfs://nn:8020/a/b"),
        ("s3a://bucket", "s3a://bucket/"),
        ("a/./b", "a/b"),
        ("/a/b?c#d%20", "/a/b?c#d%20"),
    ],
)
def test_normalized(path, expected):
    assert normalized(path) == expected


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("/a/b", "/a/b/.", True),
        ("/a/b", "file:///a/b", True),
        ("/a/b", "hdfs://nn/a/b/", True),
        ("hdfs:///a/b", "hdfs://nn/a/b", True),
        ("/a/b", "/a", True),
        ("/a", "/a/b/stages/0_KNN", True),
        ("/a/b", "/a/bc", False),
        ("/a/b", "/a/c", False),
        ("file:/a/b", "hdfs:/a/b", False),
        ("s3a://one/a", "s3a://other/a", False),
        ("s3a://one", "s3a://one/a", True),
        ("b", "/a/b", True),
        ("../b", "/a/b", True),
        ("..", "/a/b", True),
        ("c", "/a/b", False),
        ("a/b", "a/./b/c", True),
    ],
)
def test_overlap(one, other, expected):
    assert overlap(one, other) is expected
    assert overlap(other, one) is expected


def test_what_identifies_a_saved_stage():
    here = SavedAt("/a/b", '{"nonce": 1}')
    assert here.overlaps(SavedAt("dbfs:/mounted/b", '{"nonce": 1}'))
    assert not here.overlaps(SavedAt("/c", '{"nonce": 2}'))
    assert not SavedAt("/a/b", None).overlaps(SavedAt("/c", None))


def test_literal():
    assert literal(r"/x[1]{a,b}*?\y (ä)") == r"/x\[1\]\{a,b\}\*\?\\y (ä)"
