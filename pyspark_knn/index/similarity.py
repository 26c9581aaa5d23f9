"""The largest distance that a smallest similarity stands for."""

from __future__ import annotations

import math
from fractions import Fraction

SIMILARITIES = {
    "cosine": (-1.0, 1.0),
    "dice": (0.0, 1.0),
    "inner_product": (-math.inf, math.inf),
    "jaccard": (0.0, 1.0),
}
"""The metrics that minSimilarity supports -> the smallest and the largest similarity."""

_UNIT = 2.0**-53
"""The unit roundoff of float64."""


def check_similarity(similarity: float, metric: str) -> None:
    """Raise a ValueError if minSimilarity does not suit a metric.

    Parameters
    ----------
    similarity : float
        The value of minSimilarity.
    metric : str
        The canonical name of the metric.
    """
    if metric not in SIMILARITIES:
        raise ValueError(
            f"minSimilarity does not support metric {metric!r}. Supported: "
            f"{', '.join(map(repr, SIMILARITIES))}. Use maxDistance."
        )
    least, largest = SIMILARITIES[metric]
    if not least <= similarity <= largest:
        raise ValueError(
            f"minSimilarity must be between {least:g} and {largest:g} for metric {metric!r}, got "
            f"{similarity!r}"
        )


def distance_of(similarity: float, metric: str, n_features: int) -> float:
    """Return the largest distance of pairs that have at least a similarity.

    A similarity such as 0.8 is the float64 nearest to the number that the user means, and the
    distance of a pair is rounded too. The distance that is returned allows for both roundings, so
    that pairs with exactly the similarity are within it, and no pair whose similarity is lower by
    more than such a rounding is.

    Parameters
    ----------
    similarity : float
        The smallest similarity, inclusive, which `check_similarity` accepts.
    metric : str
        The canonical name of the metric.
    n_features : int
        The dimension of the vectors.

    Returns
    -------
    float
        The largest distance, inclusive.

    Notes
    -----
    * inner_product: a distance is the negated product, which is exact.
    * jaccard and dice: a similarity is a quotient of whole numbers, and the distance is 1 minus
      this quotient, rounded once. Rounding is monotonic, so the distance of a pair whose similarity
      is at least the number that the user means is at most the rounding of 1 minus that number.
    * cosine: the unit vectors a and b are off by ``(L + 6) v`` together, where ``v = 2**-53`` and
      ``L = ceil(log2(d))``, and the sum of their products by ``(L + 1) v``; see
      `pyspark_knn.index.kernels`. A distance below 1/2 is computed as half the square of
      ``|a - b|``, so that the error of the vectors is multiplied by ``|a - b|``.
    """
    if metric == "inner_product":
        return 0.0 - similarity
    least, largest = SIMILARITIES[metric]
    meant = Fraction(similarity)
    if similarity != largest:
        # The smallest number that rounds to `similarity`.
        meant = (meant + Fraction(math.nextafter(similarity, -math.inf))) / 2
    distance = min(float(1 - meant), largest - least)
    if metric != "cosine":
        return distance
    levels = n_features.bit_length()
    error = 2 * (levels + 6) * _UNIT
    if distance + error < 0.5:
        error = (levels + 6) * _UNIT * math.sqrt(2 * distance)
        error += (levels + 8) * _UNIT * distance + ((levels + 6) * _UNIT) ** 2
    return math.nextafter(distance + error, math.inf)
