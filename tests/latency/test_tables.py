"""Tables: the sum, the files, and what is refused."""


import numpy as np
import pytest

from model.architectures import describe
from tests.helpers import SMALL, arithmetic_table, every_operator
from utils.common.errors import UserError
from utils.latency import table_files, tables
from utils.latency.table_files import read_note, write_pair

NETWORK = describe("res", depth=10, width=0.25)


def test_the_raspberry_pi_table_sums_to_what_was_published(shared):
    network = describe("res", depth=40, width=2.0)
    table = tables.read_table(shared / "data/reference/res-40-2-tf-lite-raspberry-pi.pickle", network)
    assert tables.latency_s(network, network.full_widths, table) == pytest.approx(0.3530, abs=5e-5)
    assert tables.missing_joins(network, table) == ["Join_1", "Join_2", "Join_3"]


def test_every_layer_is_read_at_its_own_channels():
    table = arithmetic_table()
    widths = dict(NETWORK.full_widths, Conv_0=5, Conv_1_0_1=3, Conv_1_0_2=2, Conv_2_0_1=0, Conv_2_0_2=7, Conv_3_0_1=9,
                  Conv_3_0_2=11)
    expected = (table["Conv_0"][2, 4] + table["Stride_1"][4, 2] + table["No_Stride_1"][2, 1] + table["Skip_1"][4, 1]
                + table["Join_1"][1, 0] + table["Skip_2"][1, 6] + table["Stride_3"][6, 8] + table["No_Stride_3"][8, 10]
                + table["Skip_3"][6, 10] + table["Join_3"][10, 0] + table["FC"][10, 0])
    assert tables.latency_s(NETWORK, widths, table) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("network", [NETWORK, every_operator()], ids=["small", "everything"])
def test_a_price_is_the_entry_of_its_channels(network):
    """Also between the steps of a table, and beyond its end; of arrays as of numbers."""
    table = arithmetic_table(network)
    prices = tables.prices(network, table)
    assert set(prices) == set(network.priced)
    for name, key in network.priced.items():
        spec = network.tables[key]
        most = 2 + max(spec.rows * spec.step_in, spec.rows * spec.step_out, spec.columns * spec.step_out)
        cin, cout = np.arange(1, most), np.arange(most - 1, 0, -1)
        expected = [table[key][spec.index(int(i), int(o))] for i, o in zip(cin, cout)]
        assert prices[name](cin, cout).tolist() == expected and prices[name](3, 2) == table[key][spec.index(3, 2)]


def test_joins_are_optional_and_free_without_a_table():
    table = arithmetic_table()
    short = {k: v for k, v in table.items() if not k.startswith("Join")}
    difference = sum(table[f"Join_{s}"][w - 1, 0] for s, w in ((1, 4), (2, 8), (3, 16)))
    full = NETWORK.full_widths
    assert tables.latency_s(NETWORK, full, table) - tables.latency_s(NETWORK, full, short) == \
        pytest.approx(difference)


def test_round_trip(tmp_path):
    table = arithmetic_table()
    table_files.write_pair(tmp_path / "t.pickle", table, {"device": {"model": "a board"}})
    again = tables.read_table(tmp_path / "t.pickle", NETWORK)
    assert {k: v.dtype for k, v in again.items()} == dict.fromkeys(table, np.float64)
    assert all(np.array_equal(again[k], table[k]) for k in table)
    assert read_note(tmp_path / "t.pickle") == {"device": {"model": "a board"}}


@pytest.mark.parametrize("change, message", [
    (lambda t: t["FC"].__setitem__((3, 0), np.nan), r"FC: 1 entries are not positive seconds, first \[3, 0\] = nan"),
    (lambda t: t["Skip_1"].__setitem__((0, 0), 0), "Skip_1: 1 entries are not positive"),
    (lambda t: t["Skip_1"].__setitem__((0, 1), -1e-3), "Skip_1: 1 entries are not positive"),
    (lambda t: t["Skip_1"].__setitem__((0, 1), np.inf), "Skip_1: 1 entries are not positive"),
    (lambda t: t.pop("Stride_2"), r"Stride_2: expected \(4, 8\), found no such key"),
    (lambda t: t.update(Stride_2=np.ones((8, 4))), r"Stride_2: expected \(4, 8\), found \(8, 4\)"),
    (lambda t: t.update(Stride_4=np.ones((8, 4))), "Stride_4: expected no such key"),
    (lambda t: t.update(Stride_2="fast"), "'Stride_2': expected a two-dimensional array of seconds, found str"),
    (lambda t: t.update(Stride_2=np.array([["x"]])), "holds an array of type 'U1', which is neither"),
    (lambda t: t.update(Stride_2=np.ones(4)), "'Stride_2': expected a two-dimensional array"),
    (lambda t: t.update({7: np.ones((4, 8))}), "entry 7: expected")])
def test_a_wrong_table_is_named(table_file, change, message):
    table = arithmetic_table()
    change(table)
    with pytest.raises(UserError, match=message) as error:
        tables.read_table(table_file(table), NETWORK)
    assert "t.pickle" in str(error.value)


def test_a_table_measured_on_another_image_size_is_refused(tmp_path):
    other = describe("res", depth=10, width=0.25, img_size=64)
    table_files.write_pair(tmp_path / "t.pickle", arithmetic_table(), {"operators": tables.operators(other)})
    with pytest.raises(UserError, match="Conv_0: expected 3x3 conv, stride 1, 32x32, its note says .* 64x64"):
        tables.read_table(tmp_path / "t.pickle", NETWORK)


def test_missing_garbage_and_every_truncation_are_refused(table_file, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        table_files.read_arrays(tmp_path / "absent.pickle")
    with pytest.raises(UserError, match="a folder"):
        table_files.read_arrays(tmp_path)
    (tmp_path / "g.pickle").write_bytes(b"not a pickle at all")
    with pytest.raises(UserError, match="not a whole pickle"):
        table_files.read_arrays(tmp_path / "g.pickle")
    whole = table_file(arithmetic_table()).read_bytes()
    for length in range(0, len(whole) - 1, 97):
        (tmp_path / "cut.pickle").write_bytes(whole[:length])
        with pytest.raises(UserError, match="cut.pickle"):
            table_files.read_arrays(tmp_path / "cut.pickle")


def test_a_missing_addition_is_free_and_another_missing_layer_is_refused():
    table = arithmetic_table(NETWORK)
    whole = tables.latency_s(NETWORK, NETWORK.full_widths, table)
    without = {k: v for k, v in table.items() if not k.startswith("Join_")}
    assert 0 < tables.latency_s(NETWORK, NETWORK.full_widths, without) < whole
    with pytest.raises(UserError, match=r"the table has no Skip_2, which the network \(net res, depth 10"):
        tables.latency_s(NETWORK, NETWORK.full_widths, {k: v for k, v in table.items() if k != "Skip_2"})
    assert set(tables.prices(NETWORK, table)) - set(tables.prices(NETWORK, without)) == {
        "Join_1_0", "Join_2_0", "Join_3_0"}
    with pytest.raises(UserError, match=r"the table has no Skip_2, which the network \(net res, depth 10"):
        tables.prices(NETWORK, {k: v for k, v in table.items() if k != "Skip_2"})


def test_milliseconds_are_noticed_by_the_look_of_them(tmp_path, capsys):
    seconds = arithmetic_table()
    for name, factor, images, said in (("s", 1, 1, False), ("ms", 1e3, 1, True), ("batch", 1e3, 1000, False)):
        path = tmp_path / f"{name}.pickle"
        write_pair(path, {key: factor * array for key, array in seconds.items()}, {"num_images": images})
        tables.read_table(path, SMALL)
        assert ("These look like milliseconds; a table holds seconds" in capsys.readouterr().err) is said
    tables.look_at_units(tmp_path / "slow start", {"a": np.array([[2e-3, 1.1e-3]])}, 1e-3, 1e9, {})
    assert "its fastest layer 0.0011 s" in capsys.readouterr().err
    total = tables.latency_s(SMALL, SMALL.full_widths, seconds)
    tables.look_at_units(tmp_path / "t", {"a": np.array([[1e-4]])}, total, total * 1e7 * 0.99, {})
    assert f"the unpruned network takes {total:.4g} s by it, and its fastest layer 0.0001 s" in capsys.readouterr().err
