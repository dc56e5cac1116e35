"""Tile sizes, found in synthetic kernels whose tiles are known."""

import numpy as np
import pytest

from utils.latency import tiles


def seconds(channels, tile, seed=0, noise=0.01, remainder=0.0):
    """A kernel that computes ``tile`` channels at once, and is slower where some are left."""
    whole = 2e-6 + 1e-7 * np.ceil(channels / tile) * tile + remainder * (channels % tile != 0)
    return whole * (1 + noise * np.random.default_rng(seed).standard_normal(len(channels)))


@pytest.mark.parametrize("widest", [48, 96, 512])
@pytest.mark.parametrize("tile", [1, 4, 6, 8, 16, 32])
def test_a_tile_is_found_whatever_its_size(tile, widest):
    channels = np.arange(1, widest + 1)[tiles.run(np.arange(1, widest + 1))]
    assert 20 <= len(channels) <= tiles.RUN
    for seed in range(3):
        assert tiles.found(channels, seconds(channels, tile, seed, noise=0.005)) == tile


@pytest.mark.parametrize("tile", [8, 16, 32])
def test_a_slow_remainder_does_not_hide_the_tile(tile):
    channels = np.arange(1, 201)[tiles.run(np.arange(1, 201))]
    assert tiles.found(channels, seconds(channels, tile, remainder=1e-6)) == tile


def test_nothing_is_found_where_nothing_is():
    channels = np.arange(40, 80)
    assert tiles.found(channels, seconds(channels, 1, noise=0.02)) == 1
    assert tiles.found(channels[:5], seconds(channels[:5], 4)) == 1  # too few to tell


def test_channels_that_come_in_steps_are_all_run_along():
    steps = np.arange(8, 801, 8)
    assert len(tiles.run(steps)) == tiles.RUN and len(tiles.run(steps[:7])) == 7
