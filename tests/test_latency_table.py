"""Tables: the sum, the files, what is refused, and that loading never executes."""

import os
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.architectures import describe
from perf_tables.merge_perf_tables import merge_perf_tables
from utils import latency_table
from utils.errors import UserError

NETWORK = describe("res", depth=10, width=0.25)


def arithmetic_table(network=NETWORK):
    """Every entry tells its key, cin and column: no two are equal."""
    return {key: np.fromfunction(lambda i, j: 1e-3 * (n + 1) + 1e-5 * (i + 1) + 1e-8 * (j + 1), t.shape)
            for n, (key, t) in enumerate(network.tables.items())}


def proportional_table(network):
    """Every entry costs 1 µs per multiplication of a pixel: latencies go down as far as channels do."""
    return {key: np.fromfunction(lambda i, j: 1e-6 * t.kernel ** 2 * (i + 1) * (j + 1), t.shape)
            for key, t in network.tables.items()}


@pytest.fixture
def table_file(tmp_path):
    def write(table, name="t.pickle"):
        (tmp_path / name).write_bytes(pickle.dumps(table))
        return tmp_path / name
    return write


def test_the_raspberry_pi_table_sums_to_what_was_published(shared):
    network = describe("res", depth=40, width=2.0)
    table = latency_table.read_table(shared / "data/reference/res-40-2-tf-lite-raspberry-pi.pickle", network)
    assert latency_table.latency_s(network, network.full_widths, table) == pytest.approx(0.3530, abs=5e-5)
    assert latency_table.missing_joins(network, table) == ["Join_1", "Join_2", "Join_3"]


def test_every_layer_is_read_at_its_own_channels():
    table = arithmetic_table()
    widths = dict(NETWORK.full_widths, Conv_0=5, Conv_1_0_1=3, Conv_1_0_2=2, Conv_2_0_1=0, Conv_2_0_2=7, Conv_3_0_1=9,
                  Conv_3_0_2=11)
    expected = (table["Conv_0"][2, 4] + table["Stride_1"][4, 2] + table["No_Stride_1"][2, 1] + table["Skip_1"][4, 1]
                + table["Join_1"][1, 0] + table["Skip_2"][1, 6] + table["Stride_3"][6, 8] + table["No_Stride_3"][8, 10]
                + table["Skip_3"][6, 10] + table["Join_3"][10, 0] + table["FC"][10, 0])
    assert latency_table.latency_s(NETWORK, widths, table) == pytest.approx(expected, rel=1e-12)


def test_joins_are_optional_and_free_without_a_table():
    table = arithmetic_table()
    short = {k: v for k, v in table.items() if not k.startswith("Join")}
    difference = sum(table[f"Join_{s}"][w - 1, 0] for s, w in ((1, 4), (2, 8), (3, 16)))
    full = NETWORK.full_widths
    assert latency_table.latency_s(NETWORK, full, table) - latency_table.latency_s(NETWORK, full, short) == \
        pytest.approx(difference)


def test_round_trip(tmp_path):
    table = arithmetic_table()
    latency_table.write_table(tmp_path / "t.pickle", table, {"device": {"model": "a board"}})
    again = latency_table.read_table(tmp_path / "t.pickle", NETWORK)
    assert {k: v.dtype for k, v in again.items()} == {k: np.float64 for k in table}
    assert all(np.array_equal(again[k], table[k]) for k in table)
    assert latency_table.read_provenance(tmp_path / "t.pickle") == {"device": {"model": "a board"}}


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
        latency_table.read_table(table_file(table), NETWORK)
    assert "t.pickle" in str(error.value)


def test_a_table_measured_on_another_image_size_is_refused(tmp_path):
    other = describe("res", depth=10, width=0.25, img_size=64)
    latency_table.write_table(tmp_path / "t.pickle", arithmetic_table(), {"operators": latency_table.operators(other)})
    with pytest.raises(UserError, match="Conv_0: expected 3x3 conv, stride 1, 32x32, its sidecar says .* 64x64"):
        latency_table.read_table(tmp_path / "t.pickle", NETWORK)


def test_missing_garbage_and_every_truncation_are_refused(table_file, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        latency_table.read_arrays(tmp_path / "absent.pickle")
    with pytest.raises(UserError, match="a folder"):
        latency_table.read_arrays(tmp_path)
    (tmp_path / "g.pickle").write_bytes(b"not a pickle at all")
    with pytest.raises(UserError, match="not a whole pickle"):
        latency_table.read_arrays(tmp_path / "g.pickle")
    whole = table_file(arithmetic_table()).read_bytes()
    for length in range(0, len(whole) - 1, 97):
        (tmp_path / "cut.pickle").write_bytes(whole[:length])
        with pytest.raises(UserError, match="cut.pickle"):
            latency_table.read_arrays(tmp_path / "cut.pickle")


@pytest.mark.parametrize("protocol", range(6))
def test_every_pickle_protocol_is_read(table_file, tmp_path, protocol):
    (tmp_path / "p.pickle").write_bytes(pickle.dumps({"FC": np.ones((3, 1)), "n": np.float64(2)}, protocol))
    found = latency_table.read_pickle(tmp_path / "p.pickle")
    assert np.array_equal(found["FC"], np.ones((3, 1))) and found["n"] == 2


def pickled(*parts):
    """A pickle by hand: what no honest dump writes."""
    return b"".join([pickle.PROTO, b"\x02", *parts, pickle.STOP])


@pytest.mark.parametrize("raw", [
    pickled(b"cnumpy\nndarray\n", b"(K\x02\x85U\x01OU\x10AAAAAAAAAAAAAAAA", b"tR"),  # an array of addresses
    pickled(b"cnumpy\ndtype\n", b"U\x02O8\x85R"), pickled(b"cnumpy\ndtype\n", b"U\x02V8\x85R"),
    pickled(b"cnumpy\ndtype\n", b"U\x02f8\x85R", b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3ftb"),
    pickled(b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy\nndarray\nK\x00\x85U\x01bt"),
    pickled(b"cnumpy.core.multiarray\n_reconstruct\n", b"(cnumpy\nndarray\nK\x00\x85U\x01btR", b"(K\x01K\x09\x85",
            b"cnumpy\ndtype\nU\x02f8\x85R", b"\x89U\x08AAAAAAAAtb")],
    ids=["ndarray called", "object type", "void type", "flags in a type", "half an array", "more shape than values"])
def test_forged_arrays_reach_no_memory(tmp_path, raw):
    (tmp_path / "forged.pickle").write_bytes(raw)
    with pytest.raises(UserError, match="forged.pickle"):
        latency_table.read_arrays(tmp_path / "forged.pickle")


def test_arrays_of_either_byte_and_memory_order(tmp_path):
    values = np.arange(1.0, 7.0).reshape(2, 3)
    for array in (values.astype(">f8"), values.astype("<f4"), np.asfortranarray(values), values.astype(int)):
        for protocol in (0, 2, 4, 5):
            (tmp_path / "t.pickle").write_bytes(pickle.dumps({"a": array}, protocol))
            assert np.array_equal(latency_table.read_arrays(tmp_path / "t.pickle")["a"], values)


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"FC": x}, lambda x: {"FC": np.array([[x]], object)}])
def test_loading_never_executes(table_file, tmp_path, wrap):
    path = table_file(wrap(Touch(tmp_path / "executed")))
    with pytest.raises(UserError, match="holds .* refused, nothing in it was run"):
        latency_table.read_arrays(path)
    assert not (tmp_path / "executed").exists()


# --- merging ---------------------------------------------------------------------------------------------------

def test_merge_mean_and_median(tmp_path):
    paths = []
    for n, factor in enumerate((1.0, 2.0, 6.0)):
        paths.append(str(tmp_path / f"pass-{n}.pickle"))
        latency_table.write_table(paths[-1], {k: v * factor for k, v in arithmetic_table().items()}, {"pass": n})
    mean = merge_perf_tables(str(tmp_path / "mean.pickle"), paths)
    median = merge_perf_tables(str(tmp_path / "median.pickle"), paths, how="median")
    for key, array in arithmetic_table().items():
        np.testing.assert_allclose(mean[key], 3 * array)
        np.testing.assert_allclose(median[key], 2 * array)
    assert np.array_equal(latency_table.read_table(tmp_path / "mean.pickle", NETWORK)["FC"], mean["FC"])
    note = latency_table.read_provenance(tmp_path / "median.pickle")
    assert note["merged"]["from"] == ["pass-0.pickle", "pass-1.pickle", "pass-2.pickle"]
    assert [m["pass"] for m in note["measurements"]] == [0, 1, 2]


def test_merge_smooths_only_when_asked_and_like_scipy():
    from scipy.ndimage import gaussian_filter, gaussian_filter1d
    table = {k: v * np.random.default_rng(0).uniform(0.5, 2, v.shape) for k, v in arithmetic_table().items()}
    assert all(np.array_equal(v, table[k]) for k, v in latency_table.merge([table], ["t"]).items())
    smooth = latency_table.merge([table], ["t"], sigma=1.5, mode="nearest")
    np.testing.assert_allclose(smooth["No_Stride_2"], gaussian_filter(table["No_Stride_2"], 1.5, mode="nearest"))
    np.testing.assert_allclose(smooth["FC"], gaussian_filter1d(table["FC"], 1.5, axis=0, mode="nearest"))


def test_merge_refuses_by_name_what_does_not_match(tmp_path):
    latency_table.write_table(tmp_path / "a.pickle", arithmetic_table(), {})
    latency_table.write_table(tmp_path / "b.pickle", arithmetic_table(describe("res", depth=10, width=0.5)), {})
    with pytest.raises(UserError, match=r"b.pickle: does not match .*a.pickle: FC is \(32, 1\)"):
        merge_perf_tables(str(tmp_path / "out.pickle"), [str(tmp_path / "a.pickle"), str(tmp_path / "b.pickle")])
    assert not (tmp_path / "out.pickle").exists()


@given(st.integers(2, 5), st.randoms())
def test_a_merge_lies_between_what_it_merges(count, random):
    tables = [{"FC": np.array([[random.uniform(1e-6, 1e-3)] for _ in range(4)])} for _ in range(count)]
    for how in ("mean", "median"):
        merged = latency_table.merge(tables, ["t"] * count, how=how)["FC"]
        stack = np.array([t["FC"] for t in tables])
        assert (stack.min(0) * (1 - 1e-12) <= merged).all() and (merged <= stack.max(0) * (1 + 1e-12)).all()
