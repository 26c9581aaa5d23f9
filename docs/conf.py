"""Settings of the documentation site: `make docs` builds it."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

import inventories  # noqa: E402
import members  # noqa: E402
from sphinx.application import Sphinx  # noqa: E402

project = "pyspark_knn"
author = "the pyspark_knn developers"
copyright = author
html_title = project

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "numpydoc",
    "myst_parser",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "pages",
]
root_doc = "index"
exclude_patterns = ["README.md", "_ext", "_templates"]
templates_path = ["_templates"]
# Indented blocks of the pages are shell commands and layouts of files.
highlight_language = "text"
# The functions for the templates below cannot be pickled. Nothing else is lost with that cache.
suppress_warnings = ["config.cache"]

# --- pages ---

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

# --- API reference ---

nitpicky = True
nitpick_ignore_regex = [
    # Annotations name types by short names, many of them imported for type checkers only, and
    # classes of internal modules. Sphinx cannot know where the short names come from.
    ("py:class", r"(pd\.)?[A-Z]\w*|(.*\.)?_\w+"),
    ("py:.*", r"pyspark_knn\.[a-z_]\w*\..*"),
    # Docstrings inherited from pyspark link to its internals. The inventories have the names that
    # our own pages link to.
    ("py:.*", r"(pyspark|collections\.abc|typing|numpy|sklearn|pathlib|datetime)\..*"),
]
autosummary_context = {
    "groups": lambda module, name: members.groups(_class(module, name)),
    "kind": lambda module, name, member: members.kind(_class(module, name), member),
    "param_lines": lambda module, name, param: members.param_lines(_class(module, name), param),
}
# `name` in a docstring is code.
default_role = "code"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
numpydoc_show_class_members = False
numpydoc_xref_param_type = True
# Only the names below become links: other words of a type are prose.
numpydoc_xref_ignore = "all"
numpydoc_xref_aliases = {
    "DataFrame": "pyspark.sql.DataFrame",
    "Estimator": "pyspark.ml.Estimator",
    "PipelineModel": "pyspark.ml.PipelineModel",
    "Transformer": "pyspark.ml.Transformer",
    "NearestNeighbors": "sklearn.neighbors.NearestNeighbors",
    "ndarray": "numpy.ndarray",
    "TypeError": "TypeError",
    "ValueError": "ValueError",
}
intersphinx_mapping = inventories.write(HERE.parent / "build" / "inventories")


def _class(module: str, name: str) -> type:
    return getattr(importlib.import_module(module), name)


# --- gallery ---

# Workers must run the same Python as the build.
os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
os.environ.setdefault(
    "PYSPARK_SUBMIT_ARGS",
    "--conf spark.ui.enabled=false --conf spark.ui.showConsoleProgress=false pyspark-shell",
)
warnings.filterwarnings("ignore", category=ResourceWarning)

sphinx_gallery_conf = {
    "examples_dirs": ["../examples/gallery"],
    "gallery_dirs": ["gallery"],
    "filename_pattern": r"gallery/\w+\.py",
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "remove_config_comments": True,
    "abort_on_example_error": True,
    "capture_repr": (),
    "min_reported_time": 3600,
    "write_computation_times": False,
}

# --- look ---

html_theme = "pydata_sphinx_theme"
html_static_path = ["_static"]
html_css_files = ["site.css"]
# Pages without a section need no navigation of it.
html_sidebars = {"index": [], "recipes": []}
html_favicon = "_static/logo.svg"
toc_object_entries_show_parents = "hide"
html_show_sourcelink = False
html_copy_source = False
html_context = {"default_mode": "auto"}
html_theme_options = {
    "logo": {"text": project, "image_light": "_static/logo.svg", "image_dark": "_static/logo.svg"},
    "show_prev_next": True,
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}


def _named_self(
    app: Sphinx,
    what: str,
    name: str,
    obj: object,
    options: object,
    signature: str | None,
    returns: str | None,
) -> tuple[str | None, str | None]:
    """Show the type variable of setters under the name that Python has for it."""
    return signature, returns.replace("Self_", "Self") if returns else returns


def setup(app: Sphinx) -> None:
    """Register the hook."""
    app.connect("autodoc-process-signature", _named_self)
