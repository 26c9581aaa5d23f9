"""The graph of the nearest neighbors of the items among each other."""

from __future__ import annotations

from typing import get_args

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pyspark_knn.engine.placement import DST, SRC
from pyspark_knn.engine.search.answers import DISTANCE
from pyspark_knn.engine.search.self_search import SelfSearch
from pyspark_knn.engine.spark import compat
from pyspark_knn.literals import GraphMode
from pyspark_knn.models.neighbors import NeighborModel
from pyspark_knn.params.checks import warn_of_limits
from pyspark_knn.suggestions import did_you_mean

MODES: tuple[str, ...] = get_args(GraphMode)
"""Values of `mode` in `KNNModel.kneighborsGraph`."""


class HasGraph(NeighborModel):
    """A model that finds the neighbors of its own items."""

    def kneighborsGraph(self, mode: GraphMode = "directed") -> DataFrame:
        """Return the edges from each item to its nearest other items; lazy.

        The neighbors of an item are the k nearest of the other items, within maxDistance or
        minSimilarity if one of them is set. With ``k=None`` they are all items within the distance:
        the pairs of `pairsWithin`, in both directions if `mode` is "directed".

        GraphFrames takes the result as its edges, and ``model.items`` as its vertices, whose id is
        the column "id" (or "position" if ``idCol`` is unset: rename it).

        Parameters
        ----------
        mode : {"directed", "union", "mutual"}, default="directed"
            "directed" returns an edge from each item to each of its neighbors. "union" returns a
            pair of items once if at least one is a neighbor of the other, and "mutual" if each is a
            neighbor of the other; ``src`` is then the smaller id.

        Returns
        -------
        DataFrame
            The columns src and dst (of the type of ``idCol``; positions, of type bigint, if it is
            unset) and distance (double). There are no loops and no two equal edges, even if ids
            occur more than once.

        Raises
        ------
        ValueError
            If `mode` is not one of the values above, if k is None without a limit of the distance,
            or if there is no active Spark session.

        Examples
        --------
        >>> from pyspark_knn import KNNEstimator
        >>> items = spark.createDataFrame(
        ...     [("plum", [1.0, 1.0]), ("pear", [2.0, 1.0]), ("leek", [9.0, 7.0])],
        ...     ["name", "features"])
        >>> model = KNNEstimator(k=1, idCol="name").fit(items)
        >>> model.kneighborsGraph().where("distance < 9").orderBy("src").show()
        +----+----+--------+
        | src| dst|distance|
        +----+----+--------+
        |pear|plum|     1.0|
        |plum|pear|     1.0|
        +----+----+--------+
        <BLANKLINE>
        >>> model.kneighborsGraph("mutual").first()
        Row(src='pear', dst='plum', distance=1.0)
        """
        if mode not in MODES:
            suggestion = did_you_mean(mode, MODES)
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}{suggestion}")
        limits = self._limits()
        session = compat.active_session("kneighborsGraph")
        warn_of_limits(self, self._warned, stacklevel=3)
        if limits.k is None:
            farthest = float("inf") if limits.max_distance is None else limits.max_distance
            pairs = self._fitted.pairs(session, farthest).toDF(SRC, DST, DISTANCE)
            edges = _in_both_directions(pairs) if mode == "directed" else pairs
        else:
            self._warn_of_recall(stacklevel=3)
            wanted = SelfSearch(
                limits.k,
                limits.max_distance,
                self.getNumProbes(),
                self.getNumReplicas(),
                self._knob(),
            )
            edges = self._fitted.edges(session, wanted)
            if mode != "directed":
                return _undirected(_without_loops(edges), mutual=mode == "mutual")
        if self._fitted.num_duplicates == 0:
            return edges
        return _shortest(_without_loops(edges))


def _in_both_directions(pairs: DataFrame) -> DataFrame:
    """Return each pair twice, with either of its ids as the source."""
    ends = [F.struct(F.col(a).alias(SRC), F.col(b).alias(DST)) for a, b in ((SRC, DST), (DST, SRC))]
    both = pairs.select(F.explode(F.array(*ends)).alias("edge"), DISTANCE)
    return both.select("edge.*", DISTANCE)


def _without_loops(edges: DataFrame) -> DataFrame:
    """Leave out the edges between items with the same id."""
    return edges.where(F.col(SRC) != F.col(DST))


def _shortest(edges: DataFrame) -> DataFrame:
    """Return one edge, the shortest, of all that have the same source and destination."""
    return edges.groupBy(SRC, DST).agg(F.min(DISTANCE).alias(DISTANCE))


def _undirected(edges: DataFrame, *, mutual: bool) -> DataFrame:
    """Return each pair of ids once: those with an edge in any direction, or in both of them."""
    forth = F.col(SRC) < F.col(DST)
    pairs = edges.select(
        F.least(SRC, DST).alias(SRC),
        F.greatest(SRC, DST).alias(DST),
        DISTANCE,
        forth.alias("forth"),
    )
    # The distance of two items is the same in both directions, to the last bit.
    found = pairs.groupBy(SRC, DST).agg(
        F.min(DISTANCE).alias(DISTANCE),
        (F.bool_or("forth") & ~F.bool_and("forth")).alias("both"),
    )
    return (found.where("both") if mutual else found).drop("both")
