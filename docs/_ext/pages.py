"""Let the pages in docs be read both on a code host and on the site.

On a code host, a page links to files of the repository, such as ../README.md and ../examples. On
the site, these links lead to the page with the same content. Links to other files of the repository
become downloads, as MyST does it.
"""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent

COPIED = {"contributing": "CONTRIBUTING.md", "changelog": "CHANGELOG.md"}
"""Pages of the site whose text is that of a file in the root of the repository."""

APPENDED = {"contributing": "\n```{toctree}\n:hidden:\n\ndesign\nchangelog\n```\n"}
"""What the site adds to a page."""

LINK = re.compile(r"(\]\()(?!\w+:|#)([^)#\s]+)(#[^)\s]*)?(\))")
MOVED = {
    ROOT / "README.md": ("index.md", False),
    ROOT / "docs": ("index.md", False),
    ROOT / "docs" / "README.md": ("index.md", False),
    ROOT / "examples": ("gallery/index.rst", False),
    ROOT / "examples" / "gallery": ("gallery/index.rst", False),
    **{ROOT / file: (f"{page}.md", True) for page, file in COPIED.items()},
}
"""Files and folders whose content is on a page of the site, and whether their anchors are, too."""


def site_links(text: str, folder: Path) -> str:
    """Return a page of `folder` with links that are valid in the folder of the docs."""

    def replaced(link: re.Match[str]) -> str:
        start, target, anchor, end = link.groups()
        path = Path(folder, target).resolve()
        if path in MOVED:
            page, has_anchors = MOVED[path]
            return start + page + ((anchor or "") if has_anchors else "") + end
        if path.is_dir():
            raise ValueError(f"the site has no page for the folder {target}")
        up = "../" if not path.is_relative_to(DOCS) else ""
        return start + up + str(path.relative_to(ROOT if up else DOCS)) + (anchor or "") + end

    return LINK.sub(replaced, text)


def _read(app: Sphinx, name: str, content: list[str]) -> None:
    if app.env.doc2path(name).suffix != ".md":
        return
    folder, text = DOCS, content[0]
    if name in COPIED:
        source = ROOT / COPIED[name]
        app.env.note_dependency(str(source))
        text, folder = source.read_text(encoding="utf-8"), ROOT
    content[0] = site_links(text, folder) + APPENDED.get(name, "")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the hook."""
    app.connect("source-read", _read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
