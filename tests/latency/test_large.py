"""A table of few entries: what was measured, what fills in the rest, and its plain form."""

import pickle

import numpy as np
import pytest

from tests.kernels import PLANES, Kernel, every
from utils.latency import large, points

KERNEL = Kernel(8, 16)


def operator(key="Stride_2", whole=False):
    plane = PLANES[key]
    first = points.first(plane)
    numbers = np.arange(len(plane)) if whole else np.union1d(first, points.more(plane, 16, first.tolist(), 24, 0))
    return large.operator(plane, numbers, KERNEL.measured(*plane.channels(numbers)))


def operators():
    return {"Stride_2": operator(), "Join_1": operator("Join_1"), "Conv_0": operator("Conv_0", whole=True)}


def test_every_measured_entry_keeps_its_time_and_the_fit_fills_in_the_rest():
    found, plane = operator(), PLANES["Stride_2"]
    array = found.array()
    assert array.shape == (160, 320) and found.fit is not None and found.fit.tiles == (8, 16)
    np.testing.assert_array_equal(array.ravel()[found.numbers], found.seconds)
    rest = np.setdiff1d(np.arange(len(plane)), found.numbers)
    filled = found.fit.seconds(plane.cin.astype(float), plane.cout.astype(float)).ravel()
    np.testing.assert_array_equal(array.ravel()[rest], filled[rest])
    assert np.median(np.abs(array / every(plane, KERNEL) - 1)) < 0.03


def test_an_operator_that_was_measured_whole_has_no_fit():
    found = operator("Conv_0", whole=True)
    assert found.fit is None and found.array().shape == (3, 16)
    np.testing.assert_array_equal(found.array().ravel(), found.seconds)
    found.array()[0, 0] = 7.0  # a copy
    assert found.seconds[0] != 7.0


def test_known_tiles_are_taken():
    plane, found = PLANES["Stride_2"], operator()
    again = large.operator(plane, found.numbers, found.seconds, (4, 32))
    assert again.fit is not None and again.fit.tiles == (4, 32)


def test_one_column_has_a_row_for_every_width():
    found = operator("Join_1")
    assert found.array().shape == (160, 1) and found.cin.tolist() == [1] and found.cout.tolist() == list(range(1, 161))


def test_what_was_measured_is_told_by_channels():
    found = operator().measured()
    cin, cout, seconds = (found[name] for name in ("cin", "cout", "seconds"))
    assert (cin[0], cout[0]) == (1, 1) and (cin[-1], cout[-1]) == (160, 320)
    np.testing.assert_allclose(seconds, KERNEL.seconds(cin, cout), rtol=0.05)


def test_it_comes_back_from_its_plain_form():
    before = operators()
    plain = pickle.loads(pickle.dumps(large.plain(before)))
    assert large.is_plain(plain) and not large.is_plain(large.arrays(before)) and not large.is_plain([])
    after = large.from_plain(plain)
    assert list(after) == list(before) and large.fingerprint(after) == large.fingerprint(before)
    for key, array in large.arrays(before).items():
        np.testing.assert_array_equal(after[key].array(), array)


def test_its_plain_form_is_small_and_of_plain_values():
    found = large.plain({"No_Stride_3": operator("No_Stride_3")})
    assert len(pickle.dumps(found)) < 20_000  # 640 x 640 entries take 3.3 MB
    kinds = set()

    def look(value):
        kinds.add(type(value))
        for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            look(one)
    look(found)
    assert kinds <= {dict, list, int, float, str, np.ndarray}


def test_the_fingerprint_is_of_what_was_measured():
    one = operators()
    changed = operators()
    changed["Stride_2"].seconds[5] *= 1.001
    assert large.fingerprint(changed) != large.fingerprint(one) == large.fingerprint(operators())
    other_fit = {**one, "Stride_2": large.operator(PLANES["Stride_2"], one["Stride_2"].numbers,
                                                   one["Stride_2"].seconds, (1, 1))}
    assert large.fingerprint(other_fit) == large.fingerprint(one)


BROKEN = [
    (("shape",), [160, 321]), (("shape",), [160]), (("shape",), None), (("shape",), "160"), (("cin",), np.arange(5)),
    (("cin",), np.zeros(0, np.int64)), (("cout",), "x"), (("measured",), None), (("measured",), {}),
    (("measured", "cin"), np.zeros(82, np.int64)), (("measured", "cout"), np.full(82, 321)),
    (("measured", "cin"), np.arange(3)), (("measured", "seconds"), np.zeros(82)),
    (("measured", "seconds"), np.full(82, np.nan)), (("measured", "seconds"), np.full(82, -1e-3)),
    (("measured", "seconds"), np.zeros((82, 1))), (("measured", "seconds"), ["x"]), (("fit",), None), (("fit",), {}),
    (("fit",), 3), (("fit", "tiles"), [8]), (("fit", "weights"), np.ones((2, 2))), (("fit", "pull"), np.zeros(3)),
    (("fit", "least_s"), "x"), (("fit", "widest"), None)]


@pytest.mark.parametrize("where, value", BROKEN, ids=lambda v: ".".join(v) if isinstance(v, tuple) else "")
def test_what_is_broken_is_refused_by_the_operators_name(where, value):
    plain = large.plain(operators())
    at = plain["operators"]["Stride_2"]
    for name in where[:-1]:
        at = at[name]
    at[where[-1]] = value
    with pytest.raises(ValueError, match="Stride_2: "):
        large.from_plain(plain)
    del at[where[-1]]
    with pytest.raises(ValueError, match="Stride_2: "):
        large.from_plain(plain)


def test_entries_out_of_order_or_twice_are_refused():
    for change in (lambda a: a[::-1], lambda a: np.concatenate([a[:1], a[:-1]])):
        plain = large.plain(operators())
        measured = plain["operators"]["Stride_2"]["measured"]
        for name in ("cin", "cout", "seconds"):
            measured[name] = change(measured[name])
        with pytest.raises(ValueError, match="Stride_2: expected its entries in ascending order"):
            large.from_plain(plain)


def test_a_newer_format_and_no_operators_are_refused():
    with pytest.raises(ValueError, match="its format is 2, this version reads 1: update this program"):
        large.from_plain({**large.plain(operators()), "format": 2})
    with pytest.raises(ValueError, match="it has no operators"):
        large.from_plain({"format": 1, "operators": {}})
