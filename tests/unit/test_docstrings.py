"""Every entry of a numpydoc section has a description, not only a name and a type."""

from __future__ import annotations

import ast
import inspect
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyspark_knn

ROOT = Path(pyspark_knn.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))

SECTIONS = ("Attributes", "Parameters", "Raises", "Returns", "Yields")


def docstrings(path: Path) -> Iterator[tuple[str, str]]:
    """The names and docstrings of a module, and of its classes and functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node, clean=False)
            if text is not None:
                yield getattr(node, "name", path.stem), inspect.cleandoc(text)


def entries(docstring: str) -> Iterator[tuple[str, list[str]]]:
    """The entries of a docstring's sections with the lines of their descriptions."""
    lines = docstring.splitlines()
    starts = [i for i, line in enumerate(lines) if i > 0 and line and set(line) == {"-"}]
    for start, after in itertools.pairwise([*starts, len(lines) + 1]):
        if lines[start - 1] not in SECTIONS:
            continue
        entry: tuple[str, list[str]] | None = None
        for line in filter(None, lines[start + 1 : after - 1]):
            if line.startswith(" "):
                assert entry is not None, f"a description without an entry: {line}"
                entry[1].append(line)
            else:
                if entry is not None:
                    yield entry
                entry = line, []
        if entry is not None:
            yield entry


def test_entries_are_found() -> None:
    docstring = inspect.cleandoc(
        """Search.

        Parameters
        ----------
        k : int
        queries : ndarray of shape (n_queries, n_features)
            The vectors.

            In two paragraphs.

        Returns
        -------
        Neighbors

        Notes
        -----
        Nothing.
        """
    )
    assert [(name, len(lines)) for name, lines in entries(docstring)] == [
        ("k : int", 0),
        ("queries : ndarray of shape (n_queries, n_features)", 2),
        ("Neighbors", 0),
    ]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_entries_have_descriptions(path: Path) -> None:
    missing = [
        f"{name}: {entry}"
        for name, docstring in docstrings(path)
        for entry, description in entries(docstring)
        if not description
    ]
    assert missing == []
