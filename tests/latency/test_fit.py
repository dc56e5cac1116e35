"""Fits to few entries of synthetic kernels, whose latency is known everywhere."""

import numpy as np
import pytest

from model.architectures import describe
from utils.latency import fit as fitting
from utils.latency import large, points
from utils.latency.points import Plane

PLANE = Plane(describe("res", depth=10, width=4.0).tables["No_Stride_3"])  # 256 to 256 channels
LINE = Plane(describe("res", depth=10, width=4.0).tables["Join_3"])


def truth(cin, cout, tile_in, tile_out):
    """Tiles of both sides, and a slower way for what is left of cout."""
    ins, outs = np.ceil(cin / tile_in) * tile_in, np.ceil(cout / tile_out) * tile_out
    return 1e-6 + outs * (2e-8 + 1e-9 * ins) + 2e-9 * cin + 3e-9 * cout * (cout % tile_out != 0)


def fitted(plane, tile_in, tile_out, noise=0.01):
    first = points.first(plane)
    numbers = np.union1d(first, points.more(plane, tile_out, first.tolist(), points.PLANE, 0))
    seconds = truth(*plane.channels(numbers), tile_in, tile_out)
    seconds *= 1 + noise * np.random.default_rng(0).standard_normal(len(seconds))
    return large.operator(plane, numbers, seconds)


@pytest.mark.parametrize("tile_in, tile_out, median, p95", [
    (1, 1, 0.02, 0.08), (1, 4, 0.02, 0.08), (4, 6, 0.02, 0.08), (1, 8, 0.02, 0.08), (8, 16, 0.025, 0.12),
    (1, 32, 0.035, 0.17), (16, 8, 0.025, 0.12), (32, 32, 0.05, 0.2)])
def test_a_hundred_entries_tell_sixty_thousand(tile_in, tile_out, median, p95):
    found = fitted(PLANE, tile_in, tile_out)
    assert len(found.numbers) < 100 and found.fit.tiles[1] == tile_out
    real = truth(PLANE.cin[:, None], PLANE.cout[None, :], tile_in, tile_out)
    errors = np.abs(found.array() / real - 1)
    assert np.median(errors) < median and np.quantile(errors, 0.95) < p95


def test_what_was_measured_stays_as_measured():
    found = fitted(PLANE, 1, 16, noise=0.05)
    np.testing.assert_array_equal(found.array().ravel()[found.numbers], found.seconds)
    assert (found.array() > 0).all()


def test_an_operator_of_one_column_is_a_line():
    found = fitted(LINE, 1, 16)
    real = truth(np.ones(1), LINE.cout, 1, 16)
    assert found.array().shape == (256, 1)
    assert np.quantile(np.abs(found.array()[:, 0] / real - 1), 0.95) < 0.06


def test_a_disturbed_time_pulls_its_neighbours_alone():
    calm, first = fitted(PLANE, 1, 16, noise=0.0), points.first(PLANE)
    seconds = calm.seconds.copy()
    seconds[len(first) // 2] *= 5
    found = large.operator(PLANE, calm.numbers, seconds)
    errors = np.abs(found.array() / calm.array() - 1)
    assert np.median(errors) < 0.05


def test_a_fit_survives_as_plain_numbers():
    found = fitted(PLANE, 1, 16)
    again = fitting.Fit.from_plain(found.fit.plain(), found.fit.cin, found.fit.cout)
    cin, cout = PLANE.cin.astype(float), PLANE.cout.astype(float)
    np.testing.assert_array_equal(again.seconds(cin, cout), found.fit.seconds(cin, cout))
    with pytest.raises(ValueError, match="expected weights of"):
        fitting.Fit.from_plain({**found.fit.plain(), "weights": np.ones((2, 2))}, found.fit.cin, found.fit.cout)
