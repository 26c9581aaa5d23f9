"""The search for all pairs of items within a distance."""

from __future__ import annotations

from pyspark.sql import DataFrame

from pyspark_knn.engine.spark import compat
from pyspark_knn.models.neighbors import NeighborModel
from pyspark_knn.params.neighbors import _KNNParams


class HasPairs(NeighborModel, _KNNParams):
    """A model that finds pairs of its own items."""

    def pairsWithin(
        self, maxDistance: float | None = None, *, minSimilarity: float | None = None
    ) -> DataFrame:
        """Find all pairs of items within a distance, each pair once; lazy.

        The search is exact, whatever k and numProbes are. It compares each item only with the items
        after it, so it takes about half as long as a self-join.

        Parameters
        ----------
        maxDistance : float, optional
            The largest distance of a pair (inclusive), in the unit of the metric. By default, the
            maxDistance or the minSimilarity of this model.
        minSimilarity : float, optional
            The smallest similarity of a pair (inclusive), in place of `maxDistance`.

        Returns
        -------
        DataFrame
            The columns id and neighbor (of the type of ``idCol``; positions, of type bigint, if it
            is unset), of which id is the smaller one, and distance (double). Two items with the
            same id are a pair as well.

        Raises
        ------
        TypeError, ValueError
            If the limit is missing, is not a number, or does not suit the metric.

        Examples
        --------
        >>> from pyspark_knn import KNNEstimator
        >>> items = spark.createDataFrame(
        ...     [("plum", [1.0, 1.0]), ("pear", [2.0, 1.0]), ("leek", [9.0, 7.0])],
        ...     ["name", "features"])
        >>> KNNEstimator(k=1, idCol="name").fit(items).pairsWithin(1.0).first()
        Row(id='pear', neighbor='plum', distance=1.0)
        """
        if maxDistance is None and minSimilarity is None:
            maxDistance, minSimilarity = self.getMaxDistance(), self.getMinSimilarity()
        if maxDistance is None and minSimilarity is None:
            raise ValueError(
                "pairsWithin requires maxDistance or minSimilarity, but neither is set"
            )
        wanted = self.copy()._set(k=None, maxDistance=maxDistance, minSimilarity=minSimilarity)
        limit = wanted._limits().max_distance
        session = compat.active_session("pairsWithin")
        return self._fitted.pairs(session, float("inf") if limit is None else limit)
