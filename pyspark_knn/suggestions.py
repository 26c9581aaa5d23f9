"""Suggestions for misspelt names, in errors."""

from __future__ import annotations

from collections.abc import Iterable


def plain(name: str) -> str:
    """Return a name in lower case without underscores, hyphens and spaces."""
    return name.lower().translate(str.maketrans("", "", "_- "))


def nearest(given: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most similar to the given one.

    Parameters
    ----------
    given : str
        A name that is not known.
    known : iterable of str
        The names to choose from.

    Returns
    -------
    str or None
        The most similar name, regardless of case, underscores and hyphens; None if no name is
        similar.
    """
    import difflib  # used in errors only, and workers import this module

    names = {plain(name): name for name in known}
    found = difflib.get_close_matches(plain(given), names, n=1)
    return names[found[0]] if found else None


def did_you_mean(given: object, known: Iterable[str]) -> str:
    """Return the end of an error message about an unknown name.

    Parameters
    ----------
    given : object
        The value that was given.
    known : iterable of str
        The names that are allowed.

    Returns
    -------
    str
        ``". Did you mean 'name'?"``, or an empty string if no name is similar.
    """
    found = nearest(given, known) if isinstance(given, str) else None
    return "" if found is None else f". Did you mean {found!r}?"
