"""How many channels a kernel computes at once is found in the times of neighbouring widths."""

import numpy as np
import pytest

from tests.kernels import Kernel
from utils.latency import tiles

WIDTHS = np.arange(1, 641)


def found(channels, seconds):
    return tiles.found(channels.astype(np.float64), seconds)


def found_out(tile, seed, channels=WIDTHS, **more):
    """The tile size of cout that the noisy times of a run show."""
    run = channels[tiles.run(channels)]
    return found(run, Kernel(1, tile, **more).measured(np.full(len(run), 96), run, seed))


def found_in(tile, seed):
    run = WIDTHS[tiles.run(WIDTHS)]
    return found(run, Kernel(tile, 8).measured(run, np.full(len(run), 96), seed))


@pytest.mark.parametrize("tile", [4, 6, 8, 16, 32])
def test_a_tile_of_cout_with_a_slower_remainder_is_found(tile):
    assert [found_out(tile, seed) for seed in range(20)] == [tile] * 20


@pytest.mark.parametrize("tile, least_in, least_out", [(4, 70, 90), (6, 95, 99), (8, 100, 100), (16, 100, 100),
                                                       (32, 100, 100)])
def test_a_tile_of_cin_and_one_of_cout_with_a_remainder_as_fast_are_found_mostly(tile, least_in, least_out):
    """A step of 4 channels is 3% or 4% of the time here, and the noise 1%."""
    assert sum(found_in(tile, seed) == tile for seed in range(100)) >= least_in
    assert sum(found_out(tile, seed, slower=1.0) == tile for seed in range(100)) >= least_out


def test_where_there_is_none_noise_shows_none():
    assert sum(found_out(1, seed) != 1 for seed in range(200)) <= 6
    assert sum(found_in(1, seed) != 1 for seed in range(200)) <= 6
    assert sum(found_out(1, seed, np.arange(1, 17)) != 1 for seed in range(200)) <= 20  # of 16 widths alone


def test_a_disturbed_time_hides_no_tile():
    run = WIDTHS[tiles.run(WIDTHS)]
    seconds = Kernel(1, 8).measured(np.full(len(run), 96), run)
    for place in (3, 11, 20):
        disturbed = seconds.copy()
        disturbed[place] *= 1.1
        assert found(run, disturbed) == 8


def test_a_run_has_the_ends_of_every_tile_and_the_widths_behind_them():
    assert WIDTHS[tiles.run(WIDTHS)].tolist() == [
        45, 48, 49, 52, 53, 54, 55, 56, 57, 60, 61, 64, 65, 66, 67, 68, 69, 72, 73, 76, 77, 78, 79, 80, 81, 84]
    run = set(WIDTHS[tiles.run(WIDTHS)].tolist())
    for tile in tiles.SIZES:
        assert any({end, end + 1} <= run for end in range(tile, 641, tile)), tile


@pytest.mark.parametrize("channels, expected", [
    (range(1, 17), range(1, 17)),  # all of a narrow operator
    (range(8, 321, 8), range(8, 321, 8)),  # channels that come in blocks
    ([1], [1]), ([], [])])
def test_a_run_of_few_widths_is_all_of_them(channels, expected):
    channels = np.array(list(channels), np.int64)
    assert channels[tiles.run(channels)].tolist() == list(expected)


def test_blocks_of_channels_show_tiles_that_are_wider():
    assert [found_out(32, seed, np.arange(8, 641, 8)) for seed in range(10)] == [32] * 10
    assert [found_out(8, seed, np.arange(8, 641, 8)) for seed in range(10)] == [1] * 10  # every width is whole tiles


def test_less_than_eight_times_show_nothing():
    channels = np.arange(1, 8)
    assert found(channels, Kernel(1, 4).seconds(96, channels)) == 1
    assert found(np.arange(1, 9), Kernel(1, 4).seconds(96, np.arange(1, 9))) == 4
