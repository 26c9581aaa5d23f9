"""The ceilings of blocks of items."""

from __future__ import annotations

import numpy as np
import pytest

from pyspark_knn.index.score_blocks import ScoreBlock


@pytest.mark.parametrize("width", [7, 160, 1023, 4096])
def test_k_items_reach_the_kth_floor(width):
    rng = np.random.default_rng(width)
    ceilings = rng.standard_normal((50, width)).astype(np.float32)
    widths = rng.random(width).round(2)
    floors = ceilings - widths.astype(np.float32)
    for k in (1, 5):
        found = ScoreBlock(0, ceilings, widths).kth_floors(k)
        reaching = np.count_nonzero(floors >= found[:, None], axis=1)
        assert reaching.min() >= k
        assert reaching.max() <= 2 * k + 2
