"""Check a built site: every internal link, anchor and image, and the members in the reference.

python docs/_ext/check_site.py build/docs
"""

from __future__ import annotations

import inspect
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from members import public_members

import pyspark_knn

ATTRIBUTES = {"a": "href", "link": "href", "img": "src", "script": "src", "source": "src"}


class _Page(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors |= {value for name in ("id", "name") if (value := given.get(name))}
        if link := given.get(ATTRIBUTES.get(tag, "")):
            self.links.append(link)


def broken_links(site: Path) -> list[str]:
    """Return the links of all pages that lead nowhere within the site."""
    pages = {path: _Page(path) for path in sorted(site.rglob("*.html"))}
    # Files of the theme are pages as well, but not of the site.
    pages = {path: page for path, page in pages.items() if "_static" not in path.parts}
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path.resolve()
            if not target.is_file():
                broken.append(f"{path.relative_to(site)}: no file {link}")
            elif target in pages and unquote(parts.fragment) not in {"", *pages[target].anchors}:
                broken.append(f"{path.relative_to(site)}: no anchor {link}")
    return broken


def missing_members(site: Path) -> list[str]:
    """Return the public members of the package that the reference does not show."""
    missing = []
    for name in pyspark_knn.__all__:
        path = site / "api" / f"pyspark_knn.{name}.html"
        if not path.is_file():
            missing.append(f"pyspark_knn.{name}")
            continue
        anchors, value = _Page(path).anchors, getattr(pyspark_knn, name)
        members = public_members(value) if inspect.isclass(value) else []
        names = [f"pyspark_knn.{name}", *(f"pyspark_knn.{name}.{each}" for each in members)]
        missing += [each for each in names if each not in anchors]
    return missing


def main(site: Path) -> None:
    """Print what is wrong, and exit with an error if anything is."""
    site = site.resolve()
    wrong = broken_links(site)
    wrong += [f"the reference does not show {each}" for each in missing_members(site)]
    print("\n".join(wrong), end="\n" if wrong else "")
    pages = len(list(site.rglob("*.html")))
    print(f"{pages} pages checked, {len(wrong)} faults")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
