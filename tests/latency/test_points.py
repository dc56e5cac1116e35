"""Which entries of an operator are measured where few must do."""

import numpy as np
import pytest

from model.architectures import describe
from tests.helpers import TORCH_NETWORKS
from tests.kernels import PLANES, Kernel
from utils.latency import points
from utils.latency.points import Plane


def measured(plane, kernel, numbers):
    return kernel.measured(*plane.channels(numbers))


@pytest.mark.parametrize("name", TORCH_NETWORKS)
def test_a_plane_has_the_channels_of_its_table(name):
    for table in TORCH_NETWORKS[name].tables.values():
        plane, numbers = Plane(table), np.arange(table.rows * table.columns)
        assert len(plane) == len(numbers)
        cin, cout = plane.channels(numbers)
        entries = [table.entry(n) for n in numbers.tolist()]
        if table.rows > 1 and table.columns > 1:
            assert list(zip(cin.tolist(), cout.tolist())) == entries
        else:  # one side cannot vary
            assert set(cin.tolist()) == {1}
            assert cout.tolist() == [e[0 if table.free and table.columns == 1 else 1] for e in entries]
        assert plane.widest == (cin.max(), cout.max())


@pytest.mark.parametrize("key, count", [("No_Stride_3", 58), ("Stride_2", 58), ("Skip_1", 48), ("Join_3", 29),
                                        ("FC", 29)])
def test_the_first_entries_are_a_run_along_each_side_and_the_corners(key, count):
    plane, first = PLANES[key], points.first(PLANES[key])
    assert len(first) == count and np.all(np.diff(first) > 0) and first[0] == 0 and first[-1] == len(plane) - 1
    cin, cout = plane.channels(first)
    pairs = set(zip(cin.tolist(), cout.tolist()))
    (most_in, most_out), least_in = plane.widest, int(plane.cin[0])
    assert {(least_in, 1), (least_in, most_out), (most_in, 1), (most_in, most_out)} <= pairs
    at = 96 if most_in >= 96 else most_in  # where the other side stands
    assert {(at, n) for n in (48, 49, 64, 65, 72, 73)} <= pairs
    if most_in > 100:
        assert {(n, 96) for n in (48, 49, 64, 65, 72, 73)} <= pairs


def test_a_small_operator_is_measured_whole():
    tables = describe("res", depth=10, width=0.0625).tables
    assert points.first(Plane(tables["No_Stride_3"])).tolist() == list(range(16))  # 4 x 4
    assert points.first(Plane(tables["Join_3"])).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("key", ["No_Stride_3", "Skip_1", "Join_3", "FC"])
def test_further_entries_are_new_and_as_many_as_asked_for(key):
    plane, known = PLANES[key], points.first(PLANES[key])
    for count in (0, 1, 24, 100):
        more = points.more(plane, 8, known.tolist(), count, 0)
        assert len(more) == count and np.all(np.diff(more) > 0) and not np.isin(more, known).any()
        known = np.union1d(known, more)


def test_further_entries_fill_the_plane_evenly():
    plane = PLANES["No_Stride_3"]
    for count in (24, 48):
        cin, cout = plane.channels(points.more(plane, 8, [], count, 0))
        for part in ((cin <= 320) & (cout <= 320), (cin <= 320) & (cout > 320), (cin > 320) & (cout <= 320),
                     (cin > 320) & (cout > 320)):
            assert count / 4 - 3 <= part.sum() <= count / 4 + 3
        assert cin.min() > 12 and cout.min() > 8  # the narrowest cost nothing


@pytest.mark.parametrize("tile, at_ends", [(8, 12), (16, 12), (32, 12)])
def test_every_other_one_ends_with_a_whole_tile(tile, at_ends):
    plane = PLANES["No_Stride_3"]
    _, cout = plane.channels(points.more(plane, tile, [], 24, 0))
    assert sum(c % tile == 0 for c in cout.tolist()) in range(at_ends, at_ends + 4)


def test_no_more_entries_are_found_than_there_are():
    plane = PLANES["Skip_1"]
    left = [5, 17, 2000]
    known = np.setdiff1d(np.arange(len(plane)), left)
    assert points.more(plane, 8, known.tolist(), 24, 0).tolist() == left
    assert points.more(plane, 8, range(len(plane)), 24, 0).tolist() == []


def test_networks_of_the_same_operator_measure_the_same_entries():
    deep = describe("res", depth=16, width=10.0).tables
    for key in ("Conv_0", "Skip_1", "No_Stride_3", "FC"):
        one, other = PLANES[key], Plane(deep[key])
        assert points.first(one).tolist() == points.first(other).tolist()
        assert points.more(one, 8, [], 24, 0).tolist() == points.more(other, 8, [], 24, 0).tolist()
    another_seed = points.more(PLANES["No_Stride_3"], 8, [], 24, 1)
    assert another_seed.tolist() != points.more(PLANES["No_Stride_3"], 8, [], 24, 0).tolist()


@pytest.mark.parametrize("tiles", [(1, 1), (8, 16), (16, 8), (6, 4), (32, 32)])
def test_the_first_entries_show_the_tiles(tiles):
    plane = PLANES["No_Stride_3"]
    first = points.first(plane)
    seconds = measured(plane, Kernel(*tiles), first)
    assert points.tiles_of(plane, first, seconds) == tiles
    unmeasured = seconds.copy()
    unmeasured[:10] = np.nan  # the time ended before these
    assert points.tiles_of(plane, first, unmeasured) == tiles


def test_an_operator_with_one_column_has_no_tile_of_cin():
    for key in ("Join_3", "FC"):
        first = points.first(PLANES[key])
        assert points.tiles_of(PLANES[key], first, measured(PLANES[key], Kernel(8, 8), first)) == (1, 8)


def test_all_that_is_measured_shows_the_tiles_as_the_first_entries_do():
    plane = PLANES["Stride_2"]
    first = points.first(plane)
    numbers = np.union1d(first, points.more(plane, 16, first.tolist(), 100, 0))
    assert points.tiles_of(plane, numbers, measured(plane, Kernel(8, 16), numbers)) == (8, 16)


@pytest.mark.parametrize("multiple_of", [8, 16])
def test_widths_that_networks_never_get_are_not_measured(multiple_of):
    plane = Plane(PLANES["No_Stride_3"].table, multiple_of)
    first = points.first(plane)
    numbers = np.concatenate([first, points.more(plane, 16, first.tolist(), 30, 0)])
    cin, cout = plane.channels(numbers)
    assert len(numbers) > 60 and np.all(cin % multiple_of == 0) and np.all(cout % multiple_of == 0)
    assert len(plane.all()) == (640 // multiple_of) ** 2 and len(plane) == 640 ** 2
