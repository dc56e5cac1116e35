"""The choice of the next round: from what is known alone, without a machine or a journal."""

import numpy as np
import pytest

from model.architectures import describe
from tests.kernels import Kernel
from utils.latency import known as knowing
from utils.latency import rounds
from utils.latency.known import Planes
from utils.latency.rounds import Goal

NETWORK = describe("res", depth=10, width=1.0)
PLANES = Planes(NETWORK)


def measured(choice):
    """What these entries take by a kernel of tiles of 8 channels."""
    found = {}
    for key, numbers in choice.items():
        cin, cout = PLANES.of[key].channels(numbers)
        noise = 1 + 0.01 * np.random.default_rng(0).standard_normal(len(numbers))
        found[key] = numbers, Kernel(1, 8).seconds(cin, cout) * noise
    return found


def together(*choices):
    return {key: np.unique(np.concatenate([c[key] for c in choices])) for key in PLANES.of}


FIRST = rounds.opening(PLANES, [], 0)
SECOND = rounds.filling(PLANES, measured(FIRST), 0)
KNOWN = knowing.known(PLANES, measured(together(FIRST, SECOND)), [], np.zeros(0))


def test_the_first_round_shows_the_tiles_and_the_second_fills_what_is_between():
    assert all(np.array_equal(FIRST[key], numbers) for key, numbers in PLANES.first().items())
    assert {key: len(numbers) for key, numbers in SECOND.items() if key in ("No_Stride_3", "Join_3", "FC")} == {
        "No_Stride_3": 24, "Join_3": 12, "FC": 12}
    assert not any(np.isin(SECOND[key], FIRST[key]).any() for key in PLANES.of)


def test_what_is_reused_is_not_measured_again_but_for_a_dozen_of_each_table():
    reused = [PLANES.all({key: FIRST[key]}) for key in ("No_Stride_3", "Stride_2")]
    found = rounds.opening(PLANES, reused, 0)
    for key in ("No_Stride_3", "Stride_2"):
        assert len(found[key]) == 12 and np.isin(found[key], FIRST[key]).all()
    assert all(np.array_equal(found[key], FIRST[key]) for key in PLANES.of if key not in ("No_Stride_3", "Stride_2"))


def test_reused_entries_that_may_not_be_measured_fill_nothing():
    """With --multiple_of=8: what counts are the entries at multiples."""
    planes = Planes(NETWORK, multiple_of=8)
    plane, first = planes.of["No_Stride_3"], rounds.opening(planes, [], 0)
    others = np.setdiff1d(np.arange(len(plane)), plane.all())[:90]
    mixed = {key: np.union1d(numbers, others if key == "No_Stride_3" else []).astype(np.int64)
             for key, numbers in first.items()}
    with_others, without = (rounds.filling(planes, {
        key: (numbers, Kernel(1, 8).seconds(*planes.of[key].channels(numbers))) for key, numbers in found.items()}, 0)
        for found in (mixed, first))
    assert np.array_equal(with_others["No_Stride_3"], without["No_Stride_3"])
    assert plane.left(mixed["No_Stride_3"]) == plane.room - len(first["No_Stride_3"]) > 0


@pytest.mark.parametrize("missed, affordable, expected", [
    ([1.0], 1e9, "max_error"), ([3.0, 2.0, 1.0], 0, "max_error"),
    ([2.0, 1.95, 1.92], 1e9, "no_gain"), ([3.0, 2.0, 1.99, 2.2], 1e9, "no_gain"),
    ([2.0, 1.95], 0.9, "minutes")])
def test_a_round_is_the_last_where_further_ones_are_not_needed_or_do_not_help(missed, affordable, expected):
    assert rounds.further(PLANES, KNOWN, missed, affordable, 0) == expected


@pytest.mark.parametrize("missed, affordable, count", [
    ([2.0, 1.95], 1e9, 247), ([2.0, 1.95, 1.8], 1e9, 247), ([2.0], 100, 100)])
def test_another_round_adds_three_tenths_or_what_the_time_allows(missed, affordable, count):
    found = rounds.further(PLANES, KNOWN, missed, affordable, 0)
    assert sum(len(one.numbers) for one in KNOWN.operators.values()) == 825
    assert count - 5 <= sum(map(len, found.values())) <= count + 14  # Conv_0 has 5 left; rounded up for each of 14
    assert not any(np.isin(numbers, KNOWN.operators[key].numbers).any() for key, numbers in found.items())


@pytest.mark.parametrize("network_s, minutes, expected", [
    (0.01, 10, (30, 3)),  # of a small network all
    (5.0, 10, (20, 3)),  # 300 s of ten minutes: 60 items
    (15.0, 10, (20, 1)), (60.0, 10, (12, 1))])  # the fewest, whatever they take
def test_whole_networks_get_a_part_of_the_minutes(network_s, minutes, expected):
    assert rounds.how_many_networks(30, network_s, Goal(0.02, minutes)) == expected
    assert rounds.how_many_networks(5, network_s, Goal(0.02, minutes))[0] == 5
