"""A daemon of Python workers that imports the packages which they need before it forks them.

Spark forks first, so that each worker takes more than a second for its imports. After each task, a
worker collects garbage and visits all that was imported: what is frozen here is not visited.
"""

from __future__ import annotations

import gc

import numpy  # noqa: F401
import pandas  # noqa: F401
import pyarrow  # noqa: F401
import scipy.sparse  # noqa: F401
import sklearn.neighbors  # noqa: F401
from pyspark import worker  # noqa: F401
from pyspark.daemon import manager

if __name__ == "__main__":
    gc.collect()
    gc.freeze()
    manager()
