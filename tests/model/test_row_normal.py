"""First values of tables: those of a row, whatever part of the table is made."""

import numpy as np
import pytest
import tensorflow as tf

from cmdcm.model.row_normal import RowNormal


@pytest.mark.parametrize("dim", [1, 3, 8])
@pytest.mark.parametrize(("first", "rows"), [(0, 1), (1, 50), (4, 9), (6_001, 3_999)])
def test_a_part_has_the_values_of_its_rows(dim, first, rows):
    start = RowNormal(0.5)
    whole = start([10_000, dim]).numpy()
    part = start([10_000, dim], partition_shape=(rows, dim), partition_offset=(first, 0))
    np.testing.assert_array_equal(part.numpy(), whole[first : first + rows])


def test_values_are_normal_and_follow_the_seed():
    drawn = []
    for seed in (1, 1, 2):
        tf.random.set_seed(seed)
        drawn.append(RowNormal(0.01)([20_000, 8]).numpy())
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert abs(np.corrcoef(drawn[0].ravel(), drawn[2].ravel())[0, 1]) < 0.02
    values = drawn[0].ravel() / 0.01
    assert abs(values.mean()) < 0.01
    assert values.std() == pytest.approx(1, abs=0.01)
    assert (np.abs(values) < 1).mean() == pytest.approx(0.6827, abs=0.005)
    # No value is drawn twice.
    assert len(np.unique(values)) > 0.99 * values.size
