"""An operator's times at every width, fitted to its times at some 80 of them."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from tests.kernels import PLANES, Kernel, every
from utils.latency import fit as fitting
from utils.latency import points


def some(plane, tile):
    """Numbers of the entries that a measurement begins with."""
    first = points.first(plane)
    return np.union1d(first, points.more(plane, tile, first.tolist(), points.PLANE, 0))


def fitted(key, kernel, seed=0, noise=0.01, scale=1.0):
    """A fit to noisy times of the first entries, with the tiles that they show."""
    plane = PLANES[key]
    numbers = some(plane, kernel.tile_out)
    seconds = scale * kernel.measured(*plane.channels(numbers), seed, noise)
    tiles = points.tiles_of(plane, numbers, seconds)
    return plane, fitting.fit(*plane.channels(numbers), seconds, tiles, plane.widest)


def all_of(plane, fit):
    return fit.seconds(plane.cin.astype(np.float64), plane.cout.astype(np.float64))


def errors(key, kernel, seed=0, noise=0.01):
    """(median, 95th percentile) of the relative errors of all entries."""
    plane, fit = fitted(key, kernel, seed, noise)
    off = np.abs(all_of(plane, fit) / every(plane, kernel) - 1)
    return float(np.median(off)), float(np.quantile(off, 0.95))


@pytest.mark.parametrize("tile, median, p95", [(1, 0.02, 0.09), (4, 0.02, 0.08), (6, 0.02, 0.08), (8, 0.02, 0.08),
                                               (16, 0.027, 0.095), (32, 0.034, 0.115)])
@pytest.mark.parametrize("key", ["Skip_1", "No_Stride_1", "Stride_2", "No_Stride_3"])
def test_a_kernel_with_slower_remainders_is_fitted_to_few_noisy_times(key, tile, median, p95):
    for seed in range(3):
        for tile_in in (1, 8):
            found = errors(key, Kernel(tile_in, tile), seed)
            assert found[0] < median and found[1] < p95, (seed, tile_in)


@pytest.mark.parametrize("tile", [1, 4, 6, 8, 16, 32])
def test_tiles_of_cin_are_fitted_too(tile):
    median, p95 = errors("Stride_2", Kernel(tile, 8))
    assert median < 0.03 and p95 < 0.08


@pytest.mark.parametrize("tile", [1, 4, 8, 16])
@pytest.mark.parametrize("key", ["Join_3", "FC"])
def test_an_operator_with_one_column_is_fitted_along_it(key, tile):
    median, p95 = errors(key, Kernel(1, tile))
    assert median < 0.015 and p95 < 0.05


def test_a_disturbed_time_spoils_no_fit():
    plane, kernel = PLANES["No_Stride_1"], Kernel(8, 8)
    numbers = some(plane, 8)
    seconds = kernel.measured(*plane.channels(numbers))
    seconds[40] *= 3
    fit = fitting.fit(*plane.channels(numbers), seconds, (8, 8), plane.widest)
    off = np.abs(all_of(plane, fit) / every(plane, kernel) - 1)
    assert np.median(off) < 0.03 and np.quantile(off, 0.95) < 0.15


def test_no_fitted_time_is_far_below_what_was_measured():
    for tile in (1, 8, 32):
        plane, fit = fitted("No_Stride_3", Kernel(8, tile))
        assert all_of(plane, fit).min() > 1e-6  # a start alone takes 5 µs


def test_a_fit_knows_no_unit():
    plane, fit = fitted("Stride_2", Kernel(8, 8))
    _, in_milliseconds = fitted("Stride_2", Kernel(8, 8), scale=1e3)
    np.testing.assert_allclose(all_of(plane, in_milliseconds), 1e3 * all_of(plane, fit), rtol=1e-6)


@pytest.mark.parametrize("key", ["No_Stride_1", "Join_3"])
def test_a_fit_comes_back_from_plain_arrays(key):
    plane, fit = fitted(key, Kernel(4, 8))
    plain = pickle.loads(pickle.dumps(fit.plain()))
    again = fitting.Fit.from_plain(plain, fit.cin, fit.cout)
    assert set(plain) == {"tiles", "widest", "weights", "least_s", "pull"}
    np.testing.assert_array_equal(all_of(plane, again), all_of(plane, fit))


@pytest.mark.parametrize("change", [
    {"tiles": None}, {"tiles": [8]}, {"tiles": [8, "x"]}, {"weights": [[1.0]]}, {"weights": "x"}, {"pull": [0.0]},
    {"least_s": None}, {"widest": [16, 16]}])
def test_what_no_fit_has_given_is_refused(change):
    _, fit = fitted("No_Stride_1", Kernel(4, 8))
    with pytest.raises((KeyError, TypeError, ValueError)):
        fitting.Fit.from_plain({**fit.plain(), **change}, fit.cin, fit.cout)
    with pytest.raises(KeyError):
        fitting.Fit.from_plain({k: v for k, v in fit.plain().items() if k not in change}, fit.cin, fit.cout)


def test_the_times_of_a_pair_are_those_of_the_whole_table():
    plane, fit = fitted("Stride_2", Kernel(8, 8))
    table = all_of(plane, fit)
    for row, column in ((0, 0), (7, 100), (159, 319)):
        one = fit.seconds(plane.cin[[row]].astype(float), plane.cout[[column]].astype(float))
        assert one.shape == (1, 1) and one[0, 0] == pytest.approx(table[row, column], rel=1e-9)
    assert replace(fit, pull=0 * fit.pull).seconds(np.ones(1), np.ones(1))[0, 0] >= fit.least_s
