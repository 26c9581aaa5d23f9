"""How far a score can be off by rounding: the bound that makes the block search exact.

A search computes scores in float32 or float64, with unit roundoff u, as inner products of length
d + 1: the last term is the item's own, times one. Let p be the score that the *final figure* of a
pair stands for (exactly, in real numbers; it orders the items as the figures do). What is computed
instead is off by, at most:

1. The product. Whatever the order of summation, with fused multiply-adds or without, and for every
   n, the computed ``a.b`` of length n = d + 1 is within ``n u (1 + u) |a|.|b|`` of the exact one,
   as shown below.
2. The vectors. They are made in float64 and rounded: each component is off by at most
   ``u + (d/2 + L/2 + 8) v`` of its size, where ``v = 2**-53`` and ``L = ceil(log2(d))``. (The worst
   case is cosine, whose norm is a sum of d squares.) It counts twice, once for each vector.
3. The item's term, computed in float64 and rounded: off by ``2 u + (d + 8) v`` of its size. It
   consists of the term of the score and of the item's part of this bound.
4. The final figure. As in `pyspark_knn.index.kernels`, a squared distance is off by ``(L + 8) v``
   of itself, hence by ``2 (L + 8) v (|q|**2 + |x|**2)`` at most; an inner product by ``(L + 1) v``
   of ``|q||x|``; a cosine by ``2 (L + 5) v``.

With ``|a|.|b| <= |q||x| <= (|q|**2 + |x|**2) / 2`` (Cauchy-Schwarz, and the means), with 5 % for
all products of the errors of 2 with others, and with

    c = 1.05 ((d + 6) u + (2 d + 5 L + 64) v),    rho = c / (1 - c)

the sum is below

* euclidean: ``rho |q|**2 / 2 + rho |x|**2``. The item's term is ``(rho - 1/2) |x|**2``, of which
  no more than ``|x|**2 / 2`` take part in the product as long as ``rho <= 1``;
* inner_product: ``rho |x|``, since ``|q| < 1``. The item's term is ``rho |x|``, so that the sum is
  below ``(c + c rho) |x|``, which is ``rho |x|``;
* cosine, correlation: ``rho``, in the same way.

If ``rho >= 1``, the bound rules out nothing, and the products are not worth computing. This is so
for float32 from d = 2**22 on, and for float64 for no d below 2**31. (It can rule out an item only
if the item's ceiling is below the k-th ceiling less its width and twice the slack. For euclidean
and rho = 1 that is ``(q + y)**2 / 2 < q.x - 3/2 |x|**2 - |q|**2 / 2``, whose right side is at most
``-|q|**2 / 3``; for the others, it is a pair of scores that differ by more than 2.)

To this comes what underflow may hide in the d + 1 products and in the components. In float32 that
is the smallest normal number t each (also where a library has told the processor to flush to
zero). In float64 it is much less than the ``t = 2**-400`` that is allowed for: factors of very
different sizes lose digits too when they are scaled. ``(d + 1) t (2 + |q| + |x|)`` covers it. What
underflows in a final figure is up to the metric, see `pyspark_knn.index.score_space`.

The proof for 1 follows Jeannerod and Rump (2013), who show ``n u`` without fused multiply-adds. Let
a sum of n numbers be the root of any binary tree of additions. *The computed sum is within
``(n - 1) u S`` of the exact one, where S is the sum of the absolute values.* This is clear for
n = 1. Otherwise the root adds two computed sums s and t of i and j = n - i numbers, for which it
holds with S and T. It is enough that the error e of this addition is at most ``u (j S + i T)``,
since ``(i - 1) u S + (j - 1) u T`` and this are ``(n - 1) u (S + T)``.

* If ``T <= u S``: s itself is a floating-point number, and no other is farther from ``s + t`` than
  the nearest one. So ``e <= |t| <= (1 + (j - 1) u) T <= u j S``. If ``S <= u T``, likewise.
* Otherwise ``e <= u (|s| + |t|) <= u (S + (i - 1) u S + T + (j - 1) u T)``, which is below
  ``u (S + (i - 1) T + T + (j - 1) S) = u (j S + i T)``.

In a fused multiply-add, t is one exact product and not a floating-point number, so the first case
needs another reason if ``S <= u T``: then ``e <= u (|s| + T) <= u (S + (i - 1) u S + T)``, which is
at most ``u (S + i T)``. The products that are rounded before they are added are off by u of their
sizes, so the whole is off by at most ``u |a|.|b| + (n - 1) u (1 + u) |a|.|b|``.
"""

from __future__ import annotations

import numpy as np

U = 2.0**-24
"""The u of the bound for products in float32: half the distance from 1 to the next float32."""

V = 2.0**-53
"""The v of the bound: half the distance from 1 to the next float64."""

TINY = 2.0**-126
"""The smallest normal float32: what underflow may hide."""


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
        The relative error of a score; inf if the bound cannot rule out anything.
    """
    unit = float(np.finfo(dtype).eps) / 2
    levels = n_features.bit_length()
    first_order = 1.05 * ((n_features + 6) * unit + (2 * n_features + 5 * levels + 64) * V)
    return first_order / (1.0 - first_order) if first_order < 0.5 else np.inf


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
