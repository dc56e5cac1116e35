"""Which entries are measured where few must do."""

import numpy as np
import pytest

from model.architectures import describe
from tests.helpers import every_operator
from utils.latency import points
from utils.latency.points import Plane

TABLES = describe("res", depth=40, width=2.0).tables
WIDE = Plane(TABLES["No_Stride_3"])  # 128 to 128 channels


def test_a_plane_has_the_entries_of_its_table():
    for table in (*every_operator().tables.values(), *TABLES.values()):
        plane = Plane(table)
        assert len(plane) == table.rows * table.columns
        cin, cout = plane.channels(np.arange(len(plane)))
        entries = list(table.entries())
        if len(plane.cin) > 1:
            assert [(int(i), int(o)) for i, o in zip(cin, cout)] == entries
        else:
            assert set(cin.tolist()) == {1} and len(set(cout.tolist())) == len(entries)


def test_the_first_entries_are_two_runs_and_the_corners():
    cin, cout = WIDE.channels(points.first(WIDE))
    assert {(1, 1), (128, 128), (1, 128), (128, 1)} <= set(zip(cin.tolist(), cout.tolist()))
    along_out, along_in = cout[cin == 96], cin[cout == 96]
    assert len(along_out) >= 24 and len(along_in) >= 24
    assert {64, 65} <= set(along_out.tolist()) and {64, 65} <= set(along_in.tolist())
    small = Plane(TABLES["FC"])
    assert len(points.first(small)) < len(small) == 128


def test_further_entries_fill_the_plane_half_of_them_at_whole_tiles():
    first = points.first(WIDE).tolist()
    found = points.more(WIDE, 16, first, 40, 0)
    assert len(found) == 40 and not set(found.tolist()) & set(first)
    cin, cout = WIDE.channels(found)
    assert 18 <= (cout % 16 == 0).sum() <= 26
    quarters = {(int(i > 64), int(o > 64)) for i, o in zip(cin, cout)}
    assert quarters == {(0, 0), (0, 1), (1, 0), (1, 1)}
    again = points.more(WIDE, 16, [*first, *found.tolist()], 40, 0)
    assert len(again) == 40 and not set(again.tolist()) & set(found.tolist())


def test_an_operator_gets_no_more_entries_than_it_has():
    plane = Plane(TABLES["Join_1"])  # 32 widths
    assert points.first(plane).tolist() == list(range(32))
    assert points.more(plane, 1, range(30), 10, 0).tolist() == [30, 31]
    assert points.more(plane, 1, range(32), 10, 0).tolist() == []


@pytest.mark.parametrize("multiple_of", [8, 16])
def test_widths_that_networks_never_get_are_not_measured(multiple_of):
    plane = Plane(TABLES["No_Stride_3"], multiple_of)
    first = points.first(plane)
    numbers = np.concatenate([first, points.more(plane, 16, first.tolist(), 30, 0)])
    cin, cout = plane.channels(numbers)
    assert np.all(cin % multiple_of == 0) and np.all(cout % multiple_of == 0) and len(numbers) > 30
