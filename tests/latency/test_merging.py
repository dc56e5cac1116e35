"""Merged tables lie between what they merge, and refuse by name what does not match."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.architectures import describe
from perf_tables.merge_perf_tables import merge_perf_tables
from tests.helpers import SMALL, arithmetic_table
from tests.kernels import PLANES, Kernel
from utils.common.errors import UserError
from utils.latency import large, points, table_files, tables
from utils.latency.merging import merged_table
from utils.latency.table_files import read_note


def test_merge_mean_and_median(tmp_path):
    paths = []
    for n, factor in enumerate((1.0, 2.0, 6.0)):
        paths.append(str(tmp_path / f"pass-{n}.pickle"))
        table_files.write_pair(paths[-1], {k: v * factor for k, v in arithmetic_table().items()}, {"pass": n})
    mean = merge_perf_tables(str(tmp_path / "mean.pickle"), paths)
    median = merge_perf_tables(str(tmp_path / "median.pickle"), paths, how="median")
    for key, array in arithmetic_table().items():
        np.testing.assert_allclose(mean[key], 3 * array)
        np.testing.assert_allclose(median[key], 2 * array)
    assert np.array_equal(tables.read_table(tmp_path / "mean.pickle", SMALL)["FC"], mean["FC"])
    note = read_note(tmp_path / "median.pickle")
    assert note["merged"]["from"] == ["pass-0.pickle", "pass-1.pickle", "pass-2.pickle"]
    assert [m["pass"] for m in note["measurements"]] == [0, 1, 2]


def test_a_merge_reports_what_differs_between_its_tables(tmp_path, capsys):
    first, second = {"runtime": "ai_edge_litert", "delegate": "XNNPACK", "threads": 1}, {"runtime": "tflite_runtime"}
    for name, note, factor in (("one", first, 1.0), ("two", {**second, "threads": 1}, 1.5), ("ms", first, 1e3)):
        table = {key: array * factor for key, array in arithmetic_table().items()}
        table_files.write_pair(tmp_path / f"{name}.pickle", table, note)
    one, two, ms = (str(tmp_path / f"{name}.pickle") for name in ("one", "two", "ms"))
    merge_perf_tables(str(tmp_path / "a.pickle"), [one, two])
    assert capsys.readouterr().err == (
        f"{two}: measured with runtime tflite_runtime, {one} with ai_edge_litert\n"
        f"note: {two}: not told, and taken to be equal: delegate\n")
    found = read_note(tmp_path / "a.pickle")
    assert "runtime" not in found and found["threads"] == 1
    merge_perf_tables(str(tmp_path / "b.pickle"), [one, ms])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {ms}: its entries sum up to ") and "hold milliseconds? A table holds" in line


def test_merge_smooths_only_when_asked_and_like_scipy():
    from scipy.ndimage import gaussian_filter, gaussian_filter1d
    table = {k: v * np.random.default_rng(0).uniform(0.5, 2, v.shape) for k, v in arithmetic_table().items()}
    assert all(np.array_equal(v, table[k]) for k, v in merged_table([table], ["t"]).items())
    smooth = merged_table([table], ["t"], sigma=1.5, mode="nearest")
    np.testing.assert_allclose(smooth["No_Stride_2"], gaussian_filter(table["No_Stride_2"], 1.5, mode="nearest"))
    np.testing.assert_allclose(smooth["FC"], gaussian_filter1d(table["FC"], 1.5, axis=0, mode="nearest"))


def test_merge_refuses_by_name_what_does_not_match(tmp_path):
    table_files.write_pair(tmp_path / "a.pickle", arithmetic_table(), {})
    table_files.write_pair(tmp_path / "b.pickle", arithmetic_table(describe("res", depth=10, width=0.5)), {})
    with pytest.raises(UserError, match=r"b.pickle: does not match .*a.pickle: FC is \(32, 1\)"):
        merge_perf_tables(str(tmp_path / "out.pickle"), [str(tmp_path / "a.pickle"), str(tmp_path / "b.pickle")])
    assert not (tmp_path / "out.pickle").exists()


@given(st.integers(2, 5), st.randoms())
def test_a_merge_lies_between_what_it_merges(count, random):
    tables = [{"FC": np.array([[random.uniform(1e-6, 1e-3)] for _ in range(4)])} for _ in range(count)]
    for how in ("mean", "median"):
        merged = merged_table(tables, ["t"] * count, how=how)["FC"]
        stack = np.array([t["FC"] for t in tables])
        assert (stack.min(0) * (1 - 1e-12) <= merged).all() and (merged <= stack.max(0) * (1 + 1e-12)).all()


# --- of few entries --------------------------------------------------------------------------------------------

def few_entries(path, factor, seed, key="No_Stride_3"):
    """A table of one operator, whose further entries differ by the seed."""
    plane = PLANES[key]
    first = points.first(plane).tolist()
    numbers = np.union1d(first, points.more(plane, 16, first, 30, seed))
    seconds = factor * Kernel(1, 16).seconds(*plane.channels(numbers))
    table_files.write_large(path, {key: large.operator(plane, numbers, seconds)}, {"pass": seed})
    return numbers


def test_what_all_have_measured_is_combined_and_the_rest_brought_to_its_level(tmp_path, capsys):
    one, two = (few_entries(tmp_path / f"{name}.pickle", factor, seed) for name, factor, seed in
                (("one", 1.0, 0), ("two", 1.2, 1)))
    shared, every = np.intersect1d(one, two), np.union1d(one, two)
    merge_perf_tables(str(tmp_path / "both.pickle"), [str(tmp_path / "one.pickle"), str(tmp_path / "two.pickle")])
    assert f"{len(shared):,} entries are measured in all tables: their mean; {len(every) - len(shared):,} in some" in (
        capsys.readouterr().err)
    measured, note = table_files.read_measured(tmp_path / "both.pickle")
    found = measured["No_Stride_3"]
    assert found.numbers.tolist() == every.tolist() and note["merged"]["how"] == "mean" and len(shared) < len(every)
    np.testing.assert_allclose(found.seconds, 1.1 * Kernel(1, 16).seconds(*PLANES["No_Stride_3"].channels(every)))
    real = 1.1 * Kernel(1, 16).seconds(found.cin[:, None], found.cout[None, :])
    assert np.median(np.abs(found.array() / real - 1)) < 0.02


def test_tables_of_few_entries_that_do_not_match_are_refused(tmp_path):
    few_entries(tmp_path / "few.pickle", 1.0, 0)
    few_entries(tmp_path / "other.pickle", 1.0, 0, "Skip_2")
    table_files.write_pair(tmp_path / "dense.pickle", arithmetic_table(), {})
    few, other, dense = (str(tmp_path / f"{name}.pickle") for name in ("few", "other", "dense"))
    out = str(tmp_path / "out.pickle")
    for inputs, more, words in (([few, dense], {}, f"{few}: a table of few entries, but {dense} has all"),
                                ([few, few], {"sigma": 1.0}, f"{few}: a table of few entries, which has no neighbours"),
                                ([few, other], {}, f"{other}: does not match {few}: only one of them has No_Stride_3")):
        with pytest.raises(UserError) as found:
            merge_perf_tables(out, inputs, **more)
        assert str(found.value).startswith(words)


# --- of arrays that were sampled -------------------------------------------------------------------------------

def sampled(path, factor, entries, **change):
    """A table whose measured entries tell its machine's speed; the others are estimates, far off."""
    arrays = {key: np.full_like(array, 9.0) for key, array in arithmetic_table().items()}
    for key, words in entries.items():
        for cin, cout in ([int(n) for n in pair.split("->")] for pair in words.split()):
            place = SMALL.tables[key].index(cin, cout)
            arrays[key][place] = factor * arithmetic_table()[key][place]
    table_files.write_pair(path, arrays, {"network": SMALL.arguments, "sampling": {"entries": entries}, **change})
    return str(path)


def test_of_sampled_arrays_what_all_have_measured_is_combined_and_the_rest_is_theirs_who_have(tmp_path, capsys):
    one = sampled(tmp_path / "one.pickle", 1.0, {"No_Stride_3": "4->4 8->8"})
    two = sampled(tmp_path / "two.pickle", 1.2, {"No_Stride_3": "4->4 8->9"})
    merged, real = merge_perf_tables(str(tmp_path / "both.pickle"), [one, two])["No_Stride_3"], arithmetic_table()
    for place in ((3, 3), (7, 7), (7, 8)):
        assert merged[place] == pytest.approx(1.1 * real["No_Stride_3"][place])
    assert merged[0, 0] == 9.0, "an estimate of both"
    total = sum(array.size for array in real.values())
    assert ("1 entries are measured in all tables: their mean; 2 in some: kept, at the level of the rest; "
            f"{total - 3:,} in none") in capsys.readouterr().err
    assert read_note(tmp_path / "both.pickle")["sampling"] == {"entries": {"No_Stride_3": "4->4 8->8 8->9"}}


def test_where_one_has_measured_all_the_note_lists_nothing(tmp_path):
    one = sampled(tmp_path / "one.pickle", 1.0, {"FC": "4->10"})
    table_files.write_pair(tmp_path / "two.pickle", arithmetic_table(), {"network": SMALL.arguments})
    merged = merge_perf_tables(str(tmp_path / "both.pickle"), [one, str(tmp_path / "two.pickle")])
    assert "sampling" not in read_note(tmp_path / "both.pickle")
    np.testing.assert_allclose(merged["No_Stride_3"], arithmetic_table()["No_Stride_3"])  # no estimate is in it


@pytest.mark.parametrize("change", [{"sampling": {"measured": 3}}, {"network": None}])
def test_where_nobody_tells_what_was_measured_all_counts_and_it_is_said(tmp_path, capsys, change):
    one, two = (sampled(tmp_path / f"{name}.pickle", 1.0, {"FC": "4->10"}, **change) for name in ("one", "two"))
    merge_perf_tables(str(tmp_path / "both.pickle"), [one, two])
    assert "one.pickle: not all entries were measured; its estimates count as if they were" in capsys.readouterr().err
    assert read_note(tmp_path / "both.pickle")["sampling"] == {}


def test_a_table_of_few_entries_in_milliseconds_is_noticed(tmp_path, capsys):
    few_entries(tmp_path / "one.pickle", 1.0, 0), few_entries(tmp_path / "two.pickle", 1000.0, 1)
    merge_perf_tables(str(tmp_path / "both.pickle"), [str(tmp_path / "one.pickle"), str(tmp_path / "two.pickle")])
    assert "two.pickle: its entries sum up to" in capsys.readouterr().err
