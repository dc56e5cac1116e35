"""Pictures of tables: what is drawn of large planes."""

import numpy as np

from tests.helpers import depthwise_network, every_operator
from utils.latency.table_plot import coarse, panel_of


def test_large_planes_are_drawn_as_means_of_blocks():
    array = np.array([[1.0, 2, 3, 4, 5], [3, 4, 5, 6, 7]])
    np.testing.assert_array_equal(coarse(array, 5), array)
    np.testing.assert_array_equal(coarse(array, 2), [[1.5, 4], [3.5, 6]])
    np.testing.assert_array_equal(coarse(array, 1), [[4]])
    assert coarse(np.ones((2048, 300)), 256).shape == (256, 256)


def test_axes_are_in_channels():
    tables = {**every_operator().tables, **depthwise_network().tables}

    def axes(key):
        panel = panel_of([], key, tables[key], "much")
        return panel.steps, panel.along

    assert axes("concat_2_at_6x5") == ((2, 2), "channels")
    assert axes("conv_3x3_same_from3_at_12x10_relu") == ((1, 1), "output channels")
    assert axes("classes") == ((1, 1), "input channels")
    assert panel_of([], "mine", None, "much").title == "mine: much"
