"""The places of flags."""

import numpy as np
import pytest

from pyspark_knn.index.flags import places_of_few

SIZE = 1 << 17


@pytest.mark.parametrize("size", [0, 1, 100, SIZE, SIZE + 1, SIZE + 7])
@pytest.mark.parametrize("share", [0.0, 1e-4, 1e-3, 1e-2, 0.5, 1.0])
def test_places_of_few(size, share):
    flags = np.random.default_rng(size).random(size) < share
    found = places_of_few(flags)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, np.flatnonzero(flags))


@pytest.mark.parametrize("place", [0, 7, 8, SIZE - 1, SIZE, SIZE + 4])
def test_one_flag_is_found_wherever_it_is(place):
    flags = np.zeros(SIZE + 5, bool)
    flags[place] = True
    assert places_of_few(flags).tolist() == [place]
