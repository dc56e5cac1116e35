"""Channel files: they rebuild the very widths, published ones too, and what is wrong in one is named."""

import pickle
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.architectures import describe
from tests.helpers import NETWORKS, TINY, Touch, every_operator
from utils.common import channels
from utils.common.errors import UserError
from utils.common.pickles import read_pickle


@pytest.mark.parametrize("name", sorted(NETWORKS))
@given(data=st.data())
def test_channels_give_their_widths_back(name, data):
    network = NETWORKS[name]
    widths = {g.name: data.draw(st.integers(0 if g.removable else 1 if g.prunable else g.width, g.width))
              for g in network.groups}
    assert network.widths_of_channels(network.conv_channels(widths)) == widths


def test_the_published_file_is_a_wide_resnet_40_2(shared):
    network = describe("res", depth=40, width=2.0)
    path = shared / "data/reference/res-40-2-pruned.pickle"
    widths = channels.read_channels(path, network)
    assert network.conv_channels(widths) == pickle.loads(path.read_bytes())
    assert (widths["Conv_1_0_2"], widths["Conv_3_0_2"], widths["Conv_3_5_1"]) == (25, 97, 128)


FULL = TINY.conv_channels(TINY.full_widths)


@pytest.mark.parametrize("change, words", [
    ({"Conv_9_9_9": 3}, "Conv_9_9_9: no convolution of this network"), ({"Conv_2_0_1": None}, "Conv_2_0_1: missing"),
    ({"Conv_1_0_2": 1}, "Skip_1: 2 channels, but Conv_1_0_2"),
    ({"Skip_2": 3}, "Skip_2: 3 channels, but Conv_2_0_2, which writes the same stream, has 4"),
    ({"Conv_1_0_1": 99}, "expected 0 to 2 channels, found 99"),
    ({"Conv_1_0_1": 0}, "Conv_1_0_2: expected 0 channels"), ({"Conv_0": 0}, "Conv_0: 0 channels, expected at least 1"),
    ({"Conv_0": 2.5}, "found 2.5"),
    ({"Conv_0": True}, "found True"), ({"Conv_0": -1}, "found -1")])
def test_a_wrong_file_is_named_with_its_layer(tmp_path, change, words):
    content = {k: v for k, v in {**FULL, **change}.items() if v is not None}
    (tmp_path / "c.pickle").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match="c.pickle: ") as found:
        channels.read_channels(tmp_path / "c.pickle", TINY)
    assert words in str(found.value)


# --- files of earlier programs ---------------------------------------------------------------------------------

# A WideResNet-10-0.125 with narrower layers, and without the branch of its second stage: {layer: (inputs, outputs)}.
PAIRS = {"Conv_0": (3, 12), "Conv_1_0_1": (12, 1), "Conv_1_0_2": (1, 2), "Skip_1": (12, 2), "Skip_2": (2, 3),
         "Conv_3_0_1": (3, 5), "Conv_3_0_2": (5, 7), "Skip_3": (3, 7)}
WIDTHS = {"image": 3, "Conv_0": 12, "Conv_1_0_1": 1, "Conv_1_0_2": 2, "Conv_2_0_1": 0, "Conv_2_0_2": 3, "Conv_3_0_1": 5,
          "Conv_3_0_2": 7, "FC": 10}
OUTPUTS = {name: outputs for name, (_, outputs) in PAIRS.items()}


def read(folder, content, protocol=4):
    (folder / "c.pickle").write_bytes(pickle.dumps(content, protocol))
    return channels.read_channels(folder / "c.pickle", TINY)


@pytest.mark.parametrize("content", [
    PAIRS, {**PAIRS, "FC": (7, 10)}, {**PAIRS, "Conv_2_0_1": (2, 0), "Conv_2_0_2": (0, 3)},
    {**PAIRS, "Conv_2_0_1": 0, "Conv_2_0_2": 0}, OUTPUTS, {**OUTPUTS, "FC": 10}, {**PAIRS, "Conv_0": 12},
    OrderedDict(PAIRS), OrderedDict(OUTPUTS), {name: list(pair) for name, pair in PAIRS.items()},
    {name: np.array(pair) for name, pair in PAIRS.items()}, {name: float(n) for name, n in OUTPUTS.items()},
    {name: np.float32(n) for name, n in OUTPUTS.items()}, {name: np.array(n) for name, n in OUTPUTS.items()},
    {name: (float(i), np.int64(o)) for name, (i, o) in PAIRS.items()}], ids=str)
def test_files_of_earlier_programs_are_read(tmp_path, content):
    for protocol in (0, 2, 4):
        assert read(tmp_path, content, protocol) == WIDTHS


def test_an_ordered_dict_of_python_2_is_read(tmp_path):
    items = "".join(f"(lS'Conv_{n}'\naI{n}\naa" for n in (1, 2))
    (tmp_path / "c.pickle").write_bytes(f"ccollections\nOrderedDict\n((l{items}tR.".encode())
    assert read_pickle(tmp_path / "c.pickle") == {"Conv_1": 1, "Conv_2": 2}


def test_layers_that_are_left_out_are_named(tmp_path, capsys):
    read(tmp_path, PAIRS)
    assert (f"note: {tmp_path / 'c.pickle'}: Conv_2_0_1, Conv_2_0_2 are not in the file: taken as removed; if that is "
            "wrong, check --net, --depth and --width\n") in capsys.readouterr().err
    network = describe("res", depth=16, width=0.125)
    channels.read_channels(tmp_path / "c.pickle", network)
    found = capsys.readouterr().err
    assert ": Conv_1_1_1, Conv_1_1_2, Conv_2_0_1, Conv_2_0_2 and 4 more are not in the file: " in found
    channels.write_channels(tmp_path / "c.pickle", TINY, TINY.full_widths)
    assert channels.read_channels(tmp_path / "c.pickle", TINY) == TINY.full_widths
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("change, words", [
    ({"Conv_3_0_1": (2, 5)}, "Conv_3_0_1: 2 input channels, but the layers before it have 3"),
    ({"Skip_1": (2, 12)}, "Skip_1: 12 channels, but Conv_1_0_2, which writes the same stream, has 2"),
    ({"Conv_0": (12, 3)}, "Conv_0: 12 input channels, but the layers before it have 3"),
    ({"FC": (128, 10)}, "FC: 128 input channels, but the layers before it have 7"),
    ({"Conv_2_0_1": (2, 3)}, "Conv_2_0_2: missing, and what is left does not fit (Conv_2_0_2: 0 channels, expected"),
    ({"Skip_2": None}, "Conv_2_0_1, Conv_2_0_2, Skip_2: missing, and what is left does not fit ("),
    ({"Conv_0": None}, "Conv_0, Conv_2_0_1, Conv_2_0_2: missing, and what is left does not fit (Conv_0: 0 channels, "),
    ({"Pool": (7, 7)}, "Pool: no convolution of this network"),
    ({"Conv_0": (3, 12, 1)}, "'Conv_0': expected a number of channels, 0 or more, or a pair of input and output "
     "channels, found (3, 12, 1)"), ({"Conv_0": (3, 12.5)}, "found [3, 12.5]"),
    ({"Conv_0": (-3, 12)}, "found [-3, 12]"), ({"Conv_0": (3, True)}, "found [3, True]"),
    ({"Conv_0": "12"}, "found '12'"), ({"Conv_0": float("nan")}, "found nan"), ({"Conv_0": float("inf")}, "found inf"),
    ({"Conv_0": -10 ** 5000}, "found a huge number"),
    ({"Conv_0": np.ones((2, 2))}, "found [[1.0, 1.0], [1.0, 1.0]]"), ({16: 16}, "16: expected a number of channels")])
def test_a_pair_that_does_not_fit_is_refused(tmp_path, change, words):
    with pytest.raises(UserError) as found:
        read(tmp_path, {k: v for k, v in {**PAIRS, **change}.items() if v is not None})
    assert words in str(found.value)


def test_a_layer_of_several_groups_has_no_pair(tmp_path):
    network = every_operator()
    content = network.conv_channels(network.full_widths)
    name = next(key for key in content if ":" in key)
    (tmp_path / "c.pickle").write_bytes(pickle.dumps({**content, name: (1, content[name])}))
    with pytest.raises(UserError, match=f"{name}: expected a number of channels, found a pair"):
        channels.read_channels(tmp_path / "c.pickle", network)


def test_a_file_that_would_execute_is_refused(tmp_path):
    (tmp_path / "c.pickle").write_bytes(pickle.dumps({"Conv_0": Touch(tmp_path / "touched")}))
    with pytest.raises(UserError, match="nothing in it was run"):
        channels.read_channels(tmp_path / "c.pickle", TINY)
    assert not (tmp_path / "touched").exists()
