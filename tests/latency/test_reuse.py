"""Entries that other tables have measured on the same device with the same tool are taken from there."""

import numpy as np
import pytest

from model.architectures import describe
from perf_tables.merge_perf_tables import merge_perf_tables
from tests.kernels import PLANES, WIDE, Kernel, every
from utils.common.errors import UserError
from utils.latency import large, points, reuse
from utils.latency.entries import Entries
from utils.latency.table_files import write_large, write_pair
from utils.latency.tables import operators

NARROW = describe("res", depth=10, width=5.0)  # the same operators, half as wide
NOW = {"device": {"model": "A Board 3"}, "runtime": "litert", "version": "2.0", "threads": 1, "num_images": 1}
KERNEL = Kernel(8, 16)


def note_of(network, /, **change):
    return {**NOW, "operators": operators(network), **change}


def write_few(path, network=WIDE, seed=0, **change):
    """A table of few entries."""
    found = {}
    for key, table in network.tables.items():
        plane = points.Plane(table)
        first = points.first(plane)
        numbers = np.union1d(first, points.more(plane, 16, first.tolist(), 24, seed))
        found[key] = large.operator(plane, numbers, KERNEL.measured(*plane.channels(numbers), seed))
    write_large(path, found, note_of(network, **change))
    return found


def write_dense(path, network, /, **change):
    arrays = {key: every(points.Plane(table), KERNEL).reshape(table.shape) for key, table in network.tables.items()}
    write_pair(path, arrays, note_of(network, **change))
    return arrays


def by_key(network, found):
    """{key: {(cin, cout): seconds}}, of all tables"""
    entries, told = Entries(network), {}
    for number, seconds in ((n, s) for of_table in found.values() for n, s in of_table.items()):
        table, cin, cout = entries[number]
        told.setdefault(table.key, {})[cin, cout] = seconds
    return told


def test_all_that_a_table_of_the_same_network_has_measured_is_taken(tmp_path, capsys):
    measured = write_few(tmp_path / "t.pickle")
    found = by_key(WIDE, reuse.entries(WIDE, [tmp_path / "t.pickle"], NOW))
    assert found.keys() == measured.keys() == PLANES.keys()
    for key, one in measured.items():
        assert sorted(found[key].values()) == sorted(one.seconds.tolist())
    of = measured["Stride_2"].measured()
    assert found["Stride_2"] == {(int(i), int(o)): s for i, o, s in zip(of["cin"], of["cout"], of["seconds"])}
    count = sum(map(len, found.values()))
    assert f"t.pickle: {count:,} entries of 14 operators are reused" in capsys.readouterr().err


def test_a_wider_table_gives_what_a_narrower_network_has(tmp_path):
    measured = write_few(tmp_path / "t.pickle")
    found = by_key(NARROW, reuse.entries(NARROW, [tmp_path / "t.pickle"], NOW))
    of = measured["No_Stride_3"].measured()
    within = {(i, o): s for i, o, s in zip(of["cin"].tolist(), of["cout"].tolist(), of["seconds"].tolist())
              if i <= 320 and o <= 320}
    assert found["No_Stride_3"] == within and 50 < len(within) < len(of["cin"])


def test_a_narrower_table_gives_its_runs_to_a_wider_network(tmp_path):
    write_few(tmp_path / "t.pickle", NARROW)
    found = by_key(WIDE, reuse.entries(WIDE, [tmp_path / "t.pickle"], NOW))
    assert {(96, n) for n in (48, 49, 64, 65, 80, 81)} <= set(found["No_Stride_3"])
    assert max(cin for cin, _ in found["No_Stride_3"]) == 320


def test_a_dense_table_gives_the_entries_that_would_be_measured(tmp_path):
    arrays = write_dense(tmp_path / "t.pickle", WIDE)
    found = by_key(WIDE, reuse.entries(WIDE, [tmp_path / "t.pickle"], NOW))
    plane = PLANES["No_Stride_3"]
    cin, cout = plane.channels(points.first(plane))
    assert set(zip(cin.tolist(), cout.tolist())) <= set(found["No_Stride_3"]) and len(found["No_Stride_3"]) == 82
    assert all(seconds == arrays["No_Stride_3"][i - 1, o - 1] for (i, o), seconds in found["No_Stride_3"].items())
    assert all(seconds == arrays["FC"][i - 1, 0] for (i, _), seconds in found["FC"].items())


def test_a_wider_dense_table_is_read_at_the_networks_entries(tmp_path):
    arrays = write_dense(tmp_path / "t.pickle", WIDE)
    found = by_key(NARROW, reuse.entries(NARROW, [tmp_path / "t.pickle"], NOW))
    assert (320, 320) in found["No_Stride_3"] and (96, 64) in found["No_Stride_3"]
    assert all(seconds == arrays["No_Stride_3"][i - 1, o - 1] for (i, o), seconds in found["No_Stride_3"].items())


def test_the_first_table_counts_where_two_have_an_entry(tmp_path):
    one, other = (write_few(tmp_path / f"{seed}.pickle", seed=seed) for seed in (1, 2))
    found = by_key(WIDE, reuse.entries(WIDE, [tmp_path / "1.pickle", tmp_path / "2.pickle"], NOW))
    assert set(one["Stride_2"].seconds.tolist()) <= set(found["Stride_2"].values())
    assert len(one["Stride_2"].seconds) < len(found["Stride_2"]) <= 2 * len(one["Stride_2"].seconds)
    assert set(found["Stride_2"].values()) & set(other["Stride_2"].seconds.tolist())


def test_a_table_that_adds_nothing_to_the_first_is_no_error(tmp_path, capsys):
    write_few(tmp_path / "t.pickle")
    once = reuse.entries(WIDE, [tmp_path / "t.pickle"], NOW)
    assert by_key(WIDE, reuse.entries(WIDE, [tmp_path / "t.pickle"] * 2, NOW)) == by_key(WIDE, once)
    assert "t.pickle: 0 entries of 14 operators are reused" in capsys.readouterr().err


@pytest.mark.parametrize("change, words", [
    ({"device": {"model": "A Board 4"}}, "measured with device A Board 4, now with A Board 3; leave it out of --reuse"),
    ({"version": "1.9"}, "measured with version 1.9, now with 2.0"), ({"threads": 2}, "measured with threads 2"),
    ({"runtime": "tflite_runtime"}, "measured with runtime"), ({"num_images": 4}, "measured with num_images 4"),
    ({"operators": {}}, "it has measured no operator of net res"), ({"operators": None}, "it has measured no operator"),
    ({"operators": {"FC": "another"}}, "it has measured no operator")])
def test_a_table_that_was_measured_otherwise_is_refused(tmp_path, change, words):
    write_few(tmp_path / "t.pickle", **change)
    with pytest.raises(UserError, match=f"t.pickle: .*{words}"):
        reuse.entries(WIDE, [tmp_path / "t.pickle"], NOW)


def test_a_table_without_a_note_is_refused(tmp_path):
    write_few(tmp_path / "t.pickle")
    (tmp_path / "t.json").unlink()
    with pytest.raises(UserError, match="t.pickle: no note says how it was measured; leave it out of --reuse"):
        reuse.entries(WIDE, [tmp_path / "t.pickle"], NOW)


def test_what_was_filled_in_is_no_measurement(tmp_path):
    write_dense(tmp_path / "t.pickle", WIDE, sampling={"measured": 500})
    with pytest.raises(UserError, match="t.json: it does not tell which entries were measured"):
        reuse.entries(WIDE, [tmp_path / "t.pickle"], NOW)


@pytest.mark.parametrize("key", ["device", "runtime", "threads"])
def test_a_table_of_two_machines_is_refused(tmp_path, key):
    """Merging leaves out of the note what differs."""
    for name, value in (("a", NOW[key]), ("b", {"model": "A Board 4"} if key == "device" else 7)):
        write_dense(tmp_path / f"{name}.pickle", WIDE, **{key: value})
    merge_perf_tables(str(tmp_path / "both.pickle"), [str(tmp_path / "a.pickle"), str(tmp_path / "b.pickle")])
    with pytest.raises(UserError, match=f"both.json: it does not tell the {key}"):
        reuse.entries(WIDE, [tmp_path / "both.pickle"], NOW)


def test_what_a_note_does_not_tell_is_said(tmp_path, capsys):
    write_few(tmp_path / "t.pickle")
    assert reuse.entries(WIDE, [tmp_path / "t.pickle"], {**NOW, "delegate": "XNNPACK"})
    assert "t.pickle: not told, and taken to be equal: delegate" in capsys.readouterr().err


def test_of_merged_tables_that_were_sampled_those_count_that_one_has_measured(tmp_path):
    """And the first is the level, which a single entry in common tells."""
    told = [{"No_Stride_3": "3->16 640->5", "FC": "320->10"}, {"No_Stride_3": "3->16 7->7", "FC": "320->10"}]
    for name, entries in zip("ab", told):
        arrays = write_dense(tmp_path / f"{name}.pickle", WIDE, sampling={"entries": entries},
                             network=WIDE.arguments)
    merge_perf_tables(str(tmp_path / "m.pickle"), [str(tmp_path / "a.pickle"), str(tmp_path / "b.pickle")])
    found = by_key(WIDE, reuse.entries(WIDE, [tmp_path / "m.pickle"], NOW))
    assert found.keys() == {"No_Stride_3", "FC"}
    assert found["No_Stride_3"] == pytest.approx({
        (i, o): arrays["No_Stride_3"][i - 1, o - 1] for i, o in ((3, 16), (640, 5), (7, 7))})


@pytest.mark.parametrize("merged", [{"measurements": [{"sampling": {"entries": {}}}, {}]}, {"merged": {"sigma": 1.0}}])
def test_what_an_older_version_merged_from_samples_or_smoothed_is_no_measurement(tmp_path, merged):
    write_dense(tmp_path / "t.pickle", WIDE, **merged)
    with pytest.raises(UserError, match="t.json: it does not tell which entries were measured"):
        reuse.entries(WIDE, [tmp_path / "t.pickle"], NOW)


def test_smoothing_measures_nothing(tmp_path):
    write_dense(tmp_path / "a.pickle", WIDE)
    merge_perf_tables(str(tmp_path / "m.pickle"), [str(tmp_path / "a.pickle")], sigma=1.0)
    with pytest.raises(UserError, match="m.json: it does not tell which entries were measured"):
        reuse.entries(WIDE, [tmp_path / "m.pickle"], NOW)


@pytest.mark.parametrize("network", [WIDE, NARROW], ids=["wide", "narrow"])
def test_of_an_array_that_was_filled_in_those_count_that_its_note_tells(tmp_path, network):
    told = {"No_Stride_3": "3->16 640->5", "FC": "320->10"}
    arrays = write_dense(tmp_path / "t.pickle", WIDE, sampling={"measured": 3, "entries": told})
    found = by_key(network, reuse.entries(network, [tmp_path / "t.pickle"], NOW))
    assert found["No_Stride_3"].pop((3, 16)) == arrays["No_Stride_3"][2, 15]
    assert found["FC"] == {(320, 10): arrays["FC"][319, 0]}
    assert found["No_Stride_3"] == ({(640, 5): arrays["No_Stride_3"][639, 4]} if network is WIDE else {})


def test_a_narrower_array_that_was_filled_in_gives_what_it_has(tmp_path):
    arrays = write_dense(tmp_path / "t.pickle", NARROW, sampling={"entries": {"No_Stride_3": "3->16 640->640"}})
    found = by_key(WIDE, reuse.entries(WIDE, [tmp_path / "t.pickle"], NOW))
    assert found == {"No_Stride_3": {(3, 16): arrays["No_Stride_3"][2, 15]}}


@pytest.mark.parametrize("words", ["3-16", "3->x", "3->16->5", "1->2->3 4->5->6", "3 16", 3,
                                   ["3->16"], "9" * 30 + "->1"])
def test_a_note_that_tells_it_in_other_words_is_named(tmp_path, words):
    write_dense(tmp_path / "t.pickle", WIDE, sampling={"entries": {"FC": words}})
    with pytest.raises(UserError, match="t.json: sampling, entries, FC: expected pairs such as 3->16"):
        reuse.entries(WIDE, [tmp_path / "t.pickle"], NOW)


def test_a_table_that_is_absent_or_broken_is_named(tmp_path):
    with pytest.raises(UserError, match="t.pickle: no such file"):
        reuse.entries(WIDE, [tmp_path / "t.pickle"], NOW)
    (tmp_path / "t.pickle").write_bytes(b"x")
    with pytest.raises(UserError, match="t.pickle: not a whole pickle"):
        reuse.entries(WIDE, [tmp_path / "t.pickle"], NOW)


def test_nothing_to_reuse_is_nothing():
    assert reuse.entries(WIDE, [], NOW) == {}
