"""How far a score can be off by rounding: the bound that makes the block search exact.

A search computes scores in float32 or float64, with unit roundoff u, as inner products of length
d + 1: the last term is the item's own, times one. Let p be the score that the *final figure* of a
pair stands for (exactly, in real numbers; it orders the items as the figures do). What is computed
instead is off by, at most:

1. The product. Whatever the order of summation, with fused multiply-adds or without, the computed
   ``a.b`` of length n is within ``g |a|.|b|``, ``g = n u / (1 - n u)``, of the exact one (Higham,
   Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1; Jeannerod and Rump, 2013,
   show ``n u`` without the denominator). In float32 with n = d + 1 <= 2**17 + 1, and in float64
   with any n below 2**46, ``g <= 1.01 (d + 1) u``.
2. The vectors. They are made in float64 and rounded: each component is off by at most
   ``u + (d/2 + L/2 + 8) v`` of its size, where ``v = 2**-53`` and ``L = ceil(log2(d))``. (The worst
   case is cosine, whose norm is a sum of d squares.) It counts twice, once for each vector.
3. The item's term, computed in float64 and rounded: off by ``2 u + (d + 8) v`` of its size.
4. The final figure. As in `pyspark_knn.index.kernels`, a squared distance is off by ``(L + 8) v``
   of itself, hence by ``2 (L + 8) v (|q|**2 + |x|**2)`` at most; an inner product by ``(L + 1) v``
   of ``|q||x|``; a cosine by ``2 (L + 5) v``.

With ``|a|.|b| <= |q||x| <= (|q|**2 + |x|**2) / 2`` (Cauchy-Schwarz, and the means), with 2 % for
all products of errors, and with ``rho = 1.05 ((d + 6) u + (2 d + 5 L + 64) v)``, the sum is below

* euclidean: ``rho |q|**2 / 2 + rho |x|**2``, where item terms of size ``|x|**2 / 2`` take part;
* inner_product: ``rho |x|``, since ``|q| < 1``;
* cosine, correlation: ``rho``.

To this comes what underflow may hide in the d + 1 products and in the components. In float32 that
is the smallest normal number t each (also where a library has told the processor to flush to
zero). In float64 it is much less than the ``t = 2**-400`` that is allowed for: factors of very
different sizes lose digits too when they are scaled. ``(d + 1) t (2 + |q| + |x|)`` covers it. What
underflows in a final figure is up to the metric, see `pyspark_knn.index.score_space`.
"""

from __future__ import annotations

import numpy as np

V = 2.0**-53
"""The v of the bound: half the distance from 1 to the next float64."""

MOST_FEATURES = 1 << 17
"""The largest number of features for which the bound holds in float32."""


def rounding(n_features: int, dtype: type[np.floating]) -> float:
    """Return the rho of the bound above.

    Parameters
    ----------
    n_features : int
        The dimension of the vectors, d.
    dtype : type
        The dtype of the products, float32 or float64.

    Returns
    -------
    float
        The relative error of a score.
    """
    unit = float(np.finfo(dtype).eps) / 2
    levels = n_features.bit_length()
    return 1.05 * ((n_features + 6) * unit + (2 * n_features + 5 * levels + 64) * V)


def underflow(n_features: int, dtype: type[np.floating]) -> float:
    """Return the (d + 1) t of the bound above.

    Parameters
    ----------
    n_features, dtype : int, type
        See `rounding`.

    Returns
    -------
    float
        The absolute error of a score by underflow.
    """
    return (n_features + 1) * max(float(np.finfo(dtype).tiny), 2.0**-400)
