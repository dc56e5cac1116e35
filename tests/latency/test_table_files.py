"""A table and its note are one: whatever happens, readers find the old pair, the new pair, or a line that refuses."""

import builtins
import contextlib
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from perf_tables.merge_perf_tables import merge_perf_tables
from tests.kernels import PLANES, Kernel
from utils.common.errors import UserError
from utils.common.pickles import PROTOCOL
from utils.latency import large, points
from utils.latency.table_files import (
    is_large,
    read_arrays,
    read_measured,
    read_note,
    read_pair,
    write_large,
    write_pair,
)

OLD, NEW = ({"Conv": np.full((2, 3), seconds)} for seconds in (1e-3, 2e-3))
OLD_NOTE, NEW_NOTE = ({"correction": {"factor": factor, "overhead_s": 1e-6}} for factor in (1.1, 1.2))


@pytest.fixture
def table(tmp_path):
    write_pair(tmp_path / "t.pickle", OLD, OLD_NOTE)
    return tmp_path / "t.pickle"


def is_old(path):
    arrays, note = read_pair(path)
    for table, expected in ((OLD, OLD_NOTE), (NEW, NEW_NOTE)):
        if np.array_equal(arrays["Conv"], table["Conv"]):
            assert note == expected
            return table is OLD
    raise AssertionError(arrays)


def test_the_pair_comes_back_and_nothing_lies_beside_it(table):
    assert is_old(table)
    write_pair(table, NEW, NEW_NOTE)
    assert not is_old(table) and sorted(p.name for p in table.parent.iterdir()) == ["t.json", "t.pickle"]


class Killed(BaseException):
    pass


class Breaking:
    """A function that fails at its call number ``failing``; after a kill nothing more is done, either."""

    def __init__(self, real, failing, error, half=False):
        self.real, self.failing, self.error, self.half, self.calls = real, failing, error, half, 0

    def __call__(self, *given, **named):
        number, self.calls = self.calls, self.calls + 1
        if number == self.failing and self.half:
            self.real(*given, **named).write(b"half")
        if number == self.failing or number > self.failing and self.error is Killed:
            raise self.error
        return self.real(*given, **named)


@pytest.mark.parametrize("error", [Killed, OSError(28, "No space left on device")], ids=["killed", "full"])
@pytest.mark.parametrize("module, name, half", [
    (builtins, "open", False), (builtins, "open", True), (os, "fsync", False), (os, "replace", False),
    (os, "unlink", False)])
def test_at_every_moment_the_pair_is_the_old_or_the_new_one(table, monkeypatch, module, name, half, error):
    """Every call that changes the disk fails in turn."""
    found = []
    for failing in range(12):
        write_pair(table, OLD, OLD_NOTE)
        broken = Breaking(getattr(module, name), failing, error, half)
        with monkeypatch.context() as patched, contextlib.suppress(Killed, OSError):
            patched.setattr(module, name, broken)
            write_pair(table, NEW, NEW_NOTE)
        found.append(is_old(table))
        if broken.calls <= failing:
            break
    assert found[-1] is False, "in the last try no call failed"
    assert name == "unlink" or found[0] is True, "in the first the old pair stayed"


def test_a_note_that_waits_belongs_to_its_table_alone(table):
    waiting = table.with_name(".t.json.next")
    old = (table.with_suffix(".json")).read_bytes()
    write_pair(table, NEW, NEW_NOTE)
    os.replace(table.with_suffix(".json"), waiting)
    table.with_suffix(".json").write_bytes(old)  # as after a kill between the table and its note
    assert not is_old(table)
    write_pair(table, OLD, OLD_NOTE)
    assert is_old(table) and not waiting.exists()


def test_a_table_replaced_by_hand_beside_its_old_note_is_refused(table):
    table.write_bytes(pickle.dumps(NEW, PROTOCOL))
    with pytest.raises(UserError, match=r"t.json: the note of another table than t.pickle; .* remove t.json; "
                                        r"merge_perf_tables.py NEW .*t.pickle then gives it a note of its own"):
        read_pair(table)
    table.with_suffix(".json").unlink()  # the way out that it tells
    merged = merge_perf_tables(str(table.with_name("new.pickle")), [str(table)])
    assert np.array_equal(merged["Conv"], NEW["Conv"]) and "merged" in read_note(table.with_name("new.pickle"))
    assert read_note(table) == {}


def test_a_table_packed_anew_by_hand_keeps_its_note(table):
    table.write_bytes(pickle.dumps(OLD, 2))
    assert is_old(table)


def test_no_note_is_a_table_without_correction_and_is_said(table, capsys):
    table.with_suffix(".json").unlink()
    assert read_note(table) == {}
    assert "t.pickle: no t.json beside it; its sums are used without a correction" in capsys.readouterr().err


def test_a_note_of_an_older_version_is_read_and_that_is_said(table, capsys):
    table.with_suffix(".json").write_text(json.dumps(OLD_NOTE))
    assert is_old(table) and "t.json: carries no checksum" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '"x"', "\\xff"], ids=lambda text: text[:3])
def test_a_note_that_cannot_be_read_refuses_its_table(table, text):
    table.with_suffix(".json").write_bytes(text.encode() if text != "\\xff" else b"\xff\xfe")
    with pytest.raises(UserError, match=r"t.json: this note cannot be read \(.*\); restore it, or remove it to use"):
        read_pair(table)


def test_an_edited_note_is_refused_until_its_checksum_is_deleted(table):
    note = table.with_suffix(".json")
    edited = json.loads(note.read_text())
    edited["correction"]["factor"] = 1.3
    note.write_text(json.dumps(edited))
    with pytest.raises(UserError, match='t.json: damaged or edited, .*delete its "sha256" to use it as it is'):
        read_pair(table)
    del edited["sha256"]
    note.write_text(json.dumps(edited))
    assert read_note(table)["correction"]["factor"] == 1.3


def test_links_stay_links(table, tmp_path):
    for file in (table, table.with_suffix(".json")):
        os.replace(file, tmp_path / f"real-{file.name}")
        file.symlink_to(f"real-{file.name}")
    write_pair(table, NEW, NEW_NOTE)
    assert not is_old(table) and table.is_symlink() and table.with_suffix(".json").is_symlink()


@pytest.mark.parametrize("file", ["t.pickle", "t.json"])
def test_a_flipped_bit_is_seen(table, file):
    path = table.with_name(file)
    whole, changed = path.read_bytes(), 0
    for bit in range(0, 8 * len(whole), 3):
        hurt = bytearray(whole)
        hurt[bit // 8] ^= 1 << bit % 8
        path.write_bytes(hurt)
        try:
            arrays, note = read_pair(table)
            assert np.array_equal(arrays["Conv"], OLD["Conv"]) and note["correction"] == OLD_NOTE["correction"], bit
        except UserError:
            changed += 1
    assert changed > len(whole), "most flips are seen; the others change nothing"


def test_arrays_are_checked(tmp_path):
    (tmp_path / "t.pickle").write_bytes(pickle.dumps({"a": np.array([[1.0, -1.0]])}, PROTOCOL))
    with pytest.raises(UserError, match="a: 1 entries are not positive seconds"):
        read_arrays(tmp_path / "t.pickle")


# --- tables of few entries -------------------------------------------------------------------------------------

def few_entries(factor=1.0):
    plane = PLANES["Skip_1"]
    first = points.first(plane)
    numbers = np.union1d(first, points.more(plane, 8, first.tolist(), 24, 0))
    return {"Skip_1": large.operator(plane, numbers, factor * Kernel(1, 8).measured(*plane.channels(numbers)))}


@pytest.fixture
def large_table(tmp_path):
    write_large(tmp_path / "t.pickle", few_entries(), OLD_NOTE)
    return tmp_path / "t.pickle"


def test_a_table_of_few_entries_comes_back_with_its_note(large_table):
    arrays, note = read_pair(large_table)
    np.testing.assert_array_equal(arrays["Skip_1"], few_entries()["Skip_1"].array())
    np.testing.assert_array_equal(read_arrays(large_table)["Skip_1"], arrays["Skip_1"])
    measured, again = read_measured(large_table)
    assert note == again == read_note(large_table) == OLD_NOTE and is_large(measured)
    np.testing.assert_array_equal(measured["Skip_1"].seconds, few_entries()["Skip_1"].seconds)
    write_pair(large_table, OLD, OLD_NOTE)
    assert is_old(large_table) and not is_large(read_measured(large_table)[0])


def test_any_python_with_numpy_opens_it(large_table):
    code = ("import pickle, sys\nwith open(sys.argv[1], 'rb') as file: found = pickle.load(file)\n"
            "one = found['operators']['Skip_1']\n"
            "print(found['format'], one['shape'], len(one['measured']['seconds']), one['fit']['tiles'])\n"
            "print([m for m in sys.modules if m.split('.')[0] in ('utils', 'model')])")
    ran = subprocess.run([sys.executable, "-c", code, large_table], cwd=large_table.parent, capture_output=True,
                         text=True)
    assert ran.stdout == "1 [16, 160] 72 [1, 8]\n[]\n", ran.stderr


def test_a_note_of_another_table_of_few_entries_is_refused(large_table):
    note = large_table.with_suffix(".json").read_bytes()
    write_large(large_table, few_entries(1.5), OLD_NOTE)
    large_table.with_suffix(".json").write_bytes(note)
    with pytest.raises(UserError, match=r"t.json: the note of another table than t.pickle"):
        read_pair(large_table)


def broken(where, value):
    content = large.plain(few_entries())
    at = content
    for name in where[:-1]:
        at = at[name]
    at[where[-1]] = value
    return content


@pytest.mark.parametrize("where, value, words", [
    (("format",), 2, r"a table of few entries that cannot be read \(its format is 2"),
    (("operators",), {}, r"a table of few entries that cannot be read \(it has no operators"),
    (("operators",), [], "a table of few entries that cannot be read"),
    (("operators", "Skip_1"), None, r"a table of few entries that cannot be read \(Skip_1: .*; copy or measure it"),
    (("operators", "Skip_1", "fit"), {}, r"a table of few entries that cannot be read \(Skip_1: "),
    (("operators", "Skip_1", "fit", "weights"), np.full((4, 17), np.nan), "Skip_1: 2488 entries are not positive"),
    (("operators", "Skip_1", "fit", "pull"), np.full(72, 1e9), "Skip_1: .* entries are not positive seconds"),
])
def test_a_broken_table_of_few_entries_is_refused_in_one_line(tmp_path, where, value, words):
    path = tmp_path / "t.pickle"
    path.write_bytes(pickle.dumps(broken(where, value), PROTOCOL))
    with pytest.raises(UserError, match=f"t.pickle: {words}") as refused:
        read_arrays(path)
    assert "\n" not in str(refused.value)


def test_a_flipped_bit_of_a_table_of_few_entries_is_seen(large_table):
    whole, expected, seen = large_table.read_bytes(), few_entries()["Skip_1"].array(), 0
    for bit in range(0, 8 * len(whole), 29):
        hurt = bytearray(whole)
        hurt[bit // 8] ^= 1 << bit % 8
        large_table.write_bytes(hurt)
        try:
            np.testing.assert_array_equal(read_arrays(large_table)["Skip_1"], expected)
        except UserError:
            seen += 1
    assert seen > len(whole) / 4, "nearly all; the others change nothing"


def test_half_a_table_of_few_entries_is_refused(large_table):
    whole = large_table.read_bytes()
    for length in (0, 1, len(whole) // 2, len(whole) - 100):
        large_table.write_bytes(whole[:length])
        with pytest.raises(UserError, match="t.pickle: not a whole pickle"):
            read_arrays(large_table)
