"""A description as data: it comes back as it was, travels in files, and what is wrong in it is named with its place."""

import copy
import json

import pytest
import torch

from model.architectures import describe
from model.description import MOST_NODES, as_dict, from_dict
from model.torch_net import TorchNet
from tests.helpers import NORMAL, TORCH_NETWORKS, every_operator, normalised_images
from utils.deploy import metadata
from utils.learning import checkpoint

EVERYTHING = as_dict(every_operator(), "everything")


def from_json(content):
    return from_dict(json.loads(json.dumps(content)))


@pytest.mark.parametrize("name", TORCH_NETWORKS)
def test_a_description_comes_back_as_it_was(name):
    network = TORCH_NETWORKS[name]
    found = from_json(as_dict(network, "mine"))
    assert (found.inputs, found.groups, found.nodes) == (network.inputs, network.groups, network.nodes)
    assert found.tensors == network.tensors and found.arguments["net"] == "mine"
    assert as_dict(found, "mine") == as_dict(network, "mine") == found.arguments["description"]


def test_its_arguments_rebuild_it_and_its_words_leave_the_data_out():
    network = from_json(EVERYTHING)
    assert describe(**json.loads(json.dumps(network.arguments))) == network
    assert network.arguments["num_classes"] == 4 and network.arguments["img_size"] == [12, 10]
    assert network.short_name == "everything" and network.title == "net everything, img_size [12, 10], num_classes 4"


def test_checkpoints_and_exported_models_carry_it(tmp_path):
    network = from_json(EVERYTHING)
    torch.manual_seed(0)
    model = TorchNet(network, {**network.full_widths, "C": 3, "E": 0}).eval()
    checkpoint.save(tmp_path / "a.t7", model, NORMAL, epoch=1, error_history=[1.0], flags={}, holdout_prop=0.1)
    again = checkpoint.build(checkpoint.load(tmp_path / "a.t7"), tmp_path / "a.t7").eval()
    assert again.network == network and again.widths == model.widths
    with torch.no_grad():
        assert torch.equal(again(normalised_images(network)), model(normalised_images(network)))
    about = {"network": network.arguments, "widths": model.widths, "quantize": "none"}
    (tmp_path / "a.tflite").write_bytes(metadata.append(b"\x1c\0\0\0TFL3" + bytes(8), ["a"] * 4, about))
    assert metadata.read(tmp_path / "a.tflite").network == network


def changed(path, value):
    """A copy of EVERYTHING with another value at this place."""
    content = copy.deepcopy(EVERYTHING)
    place = content
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return content


@pytest.mark.parametrize("path, value, words", [
    (["format"], 2, "format 2, expected 1 to 1; a newer version"), (["format"], "1", "format '1'"),
    (["more"], 1, "the description: unknown field 'more'"), (["name"], "a b", "name: expected a name"),
    (["nodes"], [], "nodes: expected a list of 1 to 10,000 entries, found 0"),
    (["nodes"], [{}] * (MOST_NODES + 1), "nodes: expected a list of 1 to 10,000 entries, found 10,001"),
    (["nodes"], {}, "nodes: expected a list of 1 to 10,000 entries, found dict"),
    (["nodes", 3], [], r"nodes\[3\]: expected an object, found list"),
    (["nodes", 3, "kind"], None, r"nodes\[3\]: kind is missing"),
    (["nodes", 3, "kind"], "attention", r"nodes\[3\].kind: unknown 'attention', expected one of conv"),
    (["nodes", 3, "relu"], True, r"nodes\[3\]: unknown field 'relu'"),
    (["nodes", 3, "kernel"], 0, r"nodes\[3\].kernel: expected a whole number of 1 to"),
    (["nodes", 3, "kernel"], [3], r"nodes\[3\].kernel: expected 2 whole numbers"),
    (["nodes", 3, "kernel"], 1e9, r"nodes\[3\].kernel: expected a whole number"),
    (["nodes", 3, "kernel"], True, r"nodes\[3\].kernel: expected a whole number"),
    (["nodes", 3, "padding"], [1, 1, 1, -1], r"nodes\[3\].padding\[3\]: expected a whole number of 0"),
    (["nodes", 3, "bn"], 1, r"nodes\[3\].bn: expected true or false"),
    (["nodes", 3, "channels"], ["U"], r"nodes\[3\].channels\[0\]: expected a group and a repeat"),
    (["nodes", 3, "channels"], [["U", 0]], r"nodes\[3\].channels\[0\]\[1\]: expected a whole number"),
    (["nodes", 3, "channels"], [["none", 3]], "node grouped: unknown input or group none"),
    (["nodes", 3, "inputs"], ["classes"], "node grouped: unknown input or group classes"),  # a cycle
    (["nodes", 3, "inputs"], [3], r"nodes\[3\].inputs\[0\]: expected a name"),
    (["nodes", 3, "name"], "stem", "node stem: a name used twice"),
    (["nodes", 3, "name"], "a.b", r"nodes\[3\].name: expected a name of letters"),
    (["nodes", 0, "stride"], 5, "node "),
    (["nodes", 28, "rate"], 1.5, r"nodes\[28\].rate: expected a number of 0 to 1"),
    (["nodes", 28, "rate"], float("nan"), r"nodes\[28\].rate: expected a number"),
    (["groups", 1, "width"], 10 ** 7, r"groups\[1\].width: expected a whole number of 1 to 1,000,000"),
    (["groups", 1, "name"], "C", r"groups\[3\].name: 'C' is used twice"),
    (["groups", -1, "prunable"], True, r"nodes\[39\]: the output must be a vector of groups that are not prunable"),
    (["groups", 0, "removable"], True, r"groups\[0\]: removable, but not prunable"),
    (["groups", 3, "width"], 1_000_000, "more than 4,000,000,000 parameters"),
    (["inputs", 0, "group"], "none", r"inputs\[0\].group: no group 'none'"),
    (["inputs", 0, "channels"], [["image", 1], ["A", 1]], r"inputs\[0\].channels: an image has those of its group"),
    (["inputs", 0, "size"], [0, 3], r"inputs\[0\].size\[0\]: expected a whole number")])
def test_what_is_wrong_is_named_with_its_place(path, value, words):
    with pytest.raises(ValueError, match=words) as caught:
        from_dict(changed(path, value))
    assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, [], "x", 3, {}])
def test_what_is_no_description_is_refused(content):
    with pytest.raises(ValueError):
        from_dict(content)
    with pytest.raises(ValueError):
        describe("mine", description=content)
