"""Channel files: they rebuild the very widths, published ones too, and what is wrong in one is named."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.architectures import describe
from tests.helpers import NETWORKS, TINY, Touch
from utils.common import channels
from utils.common.errors import UserError


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


def test_a_file_that_would_execute_is_refused(tmp_path):
    (tmp_path / "c.pickle").write_bytes(pickle.dumps({"Conv_0": Touch(tmp_path / "touched")}))
    with pytest.raises(UserError, match="nothing in it was run"):
        channels.read_channels(tmp_path / "c.pickle", TINY)
    assert not (tmp_path / "touched").exists()
