"""Pickles: every protocol is read, and loading never executes."""

import pickle
from collections import OrderedDict

import numpy as np
import pytest

from tests.helpers import Touch
from utils.common.errors import UserError
from utils.common.pickles import read_pickle, to_pickle
from utils.latency.table_files import read_arrays


@pytest.mark.parametrize("protocol", range(6))
def test_every_pickle_protocol_is_read(table_file, tmp_path, protocol):
    (tmp_path / "p.pickle").write_bytes(pickle.dumps({"FC": np.ones((3, 1)), "n": np.float64(2)}, protocol))
    found = read_pickle(tmp_path / "p.pickle")
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
        read_arrays(tmp_path / "forged.pickle")


@pytest.mark.parametrize("parts", [
    (b"ccollections\nOrderedDict\n", b")R", b"}U\x05itemsU\x01asb"),  # an attribute in place of a method
    (b"ccollections\nOrderedDict\n", b"U\x01a\x85R"), (b"ccollections\nCounter\n", b")R"),
    (b"ccollections\ndefaultdict\n", b"(cbuiltins\nprint\ntR")],
    ids=["an attribute", "a wrong argument", "another class", "a function"])
def test_an_ordered_dict_brings_nothing_along(tmp_path, parts):
    (tmp_path / "forged.pickle").write_bytes(pickled(*parts))
    with pytest.raises(UserError, match="forged.pickle"):
        read_pickle(tmp_path / "forged.pickle")


@pytest.mark.parametrize("protocol", range(6))
def test_an_ordered_dict_is_read_as_a_dict(tmp_path, protocol):
    value = OrderedDict(b=1, a=OrderedDict(c=np.arange(2)))
    (tmp_path / "p.pickle").write_bytes(pickle.dumps(value, protocol))
    found = read_pickle(tmp_path / "p.pickle")
    assert type(found) is dict and list(found) == ["b", "a"] and found["a"]["c"].tolist() == [0, 1]


def test_arrays_of_either_byte_and_memory_order(tmp_path):
    values = np.arange(1.0, 7.0).reshape(2, 3)
    for array in (values.astype(">f8"), values.astype("<f4"), np.asfortranarray(values), values.astype(int)):
        for protocol in (0, 2, 4, 5):
            (tmp_path / "t.pickle").write_bytes(pickle.dumps({"a": array}, protocol))
            assert np.array_equal(read_pickle(tmp_path / "t.pickle")["a"], values)


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"FC": x}, lambda x: {"FC": np.array([[x]], object)}])
def test_loading_never_executes(table_file, tmp_path, wrap):
    path = table_file(wrap(Touch(tmp_path / "executed")))
    with pytest.raises(UserError, match="holds .* refused, nothing in it was run"):
        read_pickle(path)
    assert not (tmp_path / "executed").exists()


def test_a_flipped_bit_is_seen_or_changes_nothing(tmp_path):
    """Channels have no other checksum than the one behind the pickle."""
    path, value, seen = tmp_path / "c.pickle", {"Conv_0": 16, "Conv_1": 300}, 0
    whole = to_pickle(value)
    for bit in range(8 * len(whole)):
        hurt = bytearray(whole)
        hurt[bit // 8] ^= 1 << bit % 8
        path.write_bytes(hurt)
        try:
            assert read_pickle(path) == value, bit
        except UserError:
            seen += 1
    assert seen > 8 * (len(whole) - 80)
