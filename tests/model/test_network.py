"""The description: what it says of a WideResNet, and what it derives."""

import pytest

from model.architectures import describe
from model.network import Group, Input, Network
from model.operators import Node, units
from model.variant import network_of
from tests.helpers import NETWORKS, depthwise_network, every_operator


def test_groups_of_wideresnet_10_2():
    network = describe("res", depth=10, width=2.0)
    assert [(g.name, g.width, g.prunable, g.removable) for g in network.groups] == [
        ("image", 3, False, False), ("Conv_0", 16, True, False),
        ("Conv_1_0_1", 32, True, True), ("Conv_1_0_2", 32, True, False),
        ("Conv_2_0_1", 64, True, True), ("Conv_2_0_2", 64, True, False),
        ("Conv_3_0_1", 128, True, True), ("Conv_3_0_2", 128, True, False), ("FC", 10, False, False)]


def test_layers_of_wideresnet_10_1_in_execution_order():
    layers = describe("res", depth=10, width=1.0).layers(describe("res", depth=10, width=1.0).full_widths)
    assert [(a.node.name, a.inputs, a.cin, a.cout, a.in_size, a.out_size, a.node.table) for a in layers] == [
        ("Conv_0", ("image",), 3, 16, 32, 32, "Conv_0"),
        ("Conv_1_0_1", ("Conv_0",), 16, 16, 32, 32, "Stride_1"),
        ("Conv_1_0_2", ("Conv_1_0_1",), 16, 16, 32, 32, "No_Stride_1"),
        ("Skip_1", ("Conv_0",), 16, 16, 32, 32, "Skip_1"),
        ("Join_1_0", ("Conv_1_0_2", "Skip_1"), 16, 16, 32, 32, "Join_1"),
        ("Conv_2_0_1", ("Join_1_0",), 16, 32, 32, 16, "Stride_2"),
        ("Conv_2_0_2", ("Conv_2_0_1",), 32, 32, 16, 16, "No_Stride_2"),
        ("Skip_2", ("Join_1_0",), 16, 32, 32, 16, "Skip_2"),
        ("Join_2_0", ("Conv_2_0_2", "Skip_2"), 32, 32, 16, 16, "Join_2"),
        ("Conv_3_0_1", ("Join_2_0",), 32, 64, 16, 8, "Stride_3"),
        ("Conv_3_0_2", ("Conv_3_0_1",), 64, 64, 8, 8, "No_Stride_3"),
        ("Skip_3", ("Join_2_0",), 32, 64, 16, 8, "Skip_3"),
        ("Join_3_0", ("Conv_3_0_2", "Skip_3"), 64, 64, 8, 8, "Join_3"),
        ("Pool", ("Join_3_0",), 64, 64, 8, 1, None),
        ("FC", ("Pool",), 64, 10, 1, 1, "FC")]


def test_block_counts_and_what_follows_the_convolutions():
    network = describe("res", depth=40, width=2.0)
    names = [n.name for n in network.nodes]
    assert sum(n.startswith("Join_2_") for n in names) == 6
    assert sum(g.prunable for g in network.groups) == 22
    node = {n.name: n for n in network.nodes}
    assert [(node[n].bn, node[n].activation) for n in ("Conv_0", "Conv_2_3_1", "Conv_2_3_2", "Skip_2", "Join_2_3")] == [
        (True, "relu"), (True, "relu"), (False, ""), (False, ""), (True, "relu")]


def test_tables_of_wideresnet_40_2_have_43184_entries_and_224_joins():
    tables = describe("res", depth=40, width=2.0).tables
    assert {k: t.shape for k, t in tables.items()} == {
        "Conv_0": (3, 16), "Stride_1": (16, 32), "No_Stride_1": (32, 32), "Skip_1": (16, 32), "Join_1": (32, 1),
        "Stride_2": (32, 64), "No_Stride_2": (64, 64), "Skip_2": (32, 64), "Join_2": (64, 1),
        "Stride_3": (64, 128), "No_Stride_3": (128, 128), "Skip_3": (64, 128), "Join_3": (128, 1), "FC": (128, 1)}
    count = {kind: sum(len(list(t.entries())) for t in tables.values() if (t.kind == "add") == kind)
             for kind in (True, False)}
    assert count == {False: 43184, True: 224}


def test_entries_and_index_of_single_column_tables():
    tables = describe("res", depth=10, width=0.25).tables
    assert list(tables["Join_1"].entries()) == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert list(tables["FC"].entries())[-1] == (16, 10)
    assert tables["FC"].index(16, 10) == (15, 0)
    assert tables["No_Stride_1"].index(3, 2) == (2, 1)


def test_a_removed_block_takes_its_join_along_and_the_stream_passes_through():
    network = describe("res", depth=16, width=1.0)
    widths = dict(network.full_widths, Conv_2_1_1=0)
    layers = {a.node.name: a for a in network.layers(widths)}
    assert not {"Conv_2_1_1", "Conv_2_1_2", "Join_2_1"} & set(layers)
    assert layers["Conv_3_0_1"].inputs == ("Join_2_0",)
    assert network.conv_channels(widths)["Conv_2_1_1"] == network.conv_channels(widths)["Conv_2_1_2"] == 0


def test_a_removed_first_block_leaves_its_skip():
    network = describe("res", depth=16, width=1.0)
    layers = {a.node.name: a for a in network.layers(dict(network.full_widths, Conv_2_0_1=0))}
    assert layers["Conv_2_1_1"].inputs == ("Skip_2",)
    assert layers["Join_2_1"].inputs == ("Conv_2_1_2", "Skip_2")
    assert layers["Conv_2_1_1"].in_size == 16


def test_producers():
    network = describe("res", depth=16, width=1.0)
    names = lambda nodes: [n.name for n in nodes]
    assert names(network.producers("Conv_2_0_2")) == ["Conv_2_0_2", "Skip_2", "Conv_2_1_2"]


def test_streams_are_what_additions_join():
    network = describe("res", depth=10, width=2.0)
    assert network.streams == {"Conv_1_0_2", "Conv_2_0_2", "Conv_3_0_2"}  # not Conv_0, which a skip reads
    assert depthwise_network().streams == {"stem"} and every_operator().streams == {"C", "D", "P", "L", "Q"}


def test_channels_match_the_published_file(shared):
    import pickle
    published = pickle.loads((shared / "data/reference/res-40-2-pruned.pickle").read_bytes())
    network = describe("res", depth=40, width=2.0)
    widths = dict(network.full_widths, Conv_1_0_2=25, Conv_2_0_2=46, Conv_3_0_2=97)
    assert network.conv_channels(widths) == published


@pytest.mark.parametrize("depth", [4, 9, 11, 39, 41, -2, 0])
def test_wrong_depth_says_which_are_valid(depth):
    with pytest.raises(ValueError, match=r"6n \+ 4: 10, 16, 22"):
        describe("res", depth=depth, width=1.0)


@pytest.mark.parametrize("width", [0, -1, 0.3, float("nan"), float("inf")])
def test_wrong_width_says_which_are_valid(width):
    with pytest.raises(ValueError, match="whole number of channels"):
        describe("res", depth=16, width=width)


def test_unknown_network_and_round_trip():
    with pytest.raises(ValueError, match="expected one of res"):
        describe("vgg", depth=16, width=1.0)
    network = describe("res", depth=22, width=1.5)
    assert describe(**network.arguments) == network


@pytest.mark.parametrize("change, message", [
    ({"Conv_9": 3}, "Conv_9: not a group"), ({"Conv_0": 0}, "Conv_0: expected 1 to 16"),
    ({"Conv_1_0_1": 17}, "Conv_1_0_1: expected 0 to 16"), ({"FC": 9}, "FC: expected 10 to 10"),
    ({"Conv_0": 2.0}, "Conv_0: expected 1 to 16"), ({"Conv_0": True}, "Conv_0: expected")])
def test_wrong_widths_are_named(change, message):
    network = describe("res", depth=10, width=1.0)
    with pytest.raises(ValueError, match=message):
        network.layers({**network.full_widths, **change})


def test_missing_width_is_named():
    network = depthwise_network()
    with pytest.raises(ValueError, match="stem: width missing"):
        network.layers({k: v for k, v in network.full_widths.items() if k != "stem"})


@pytest.mark.parametrize("node, message", [
    (Node("A", "conv", ("nowhere",), units("g")), "node A: unknown input or group nowhere"),
    (Node("A", "conv", ("x",), units("h")), "node A: unknown input or group h"),
    (Node("A", "deconv", ("x",), units("g")), "unknown kind 'deconv', expected one of conv"),
    (Node("x", "conv", ("x",), units("g")), "used twice"),
    (Node("A", "add", ("x", "x"), units("g")), "keeps the channels")])
def test_a_description_that_contradicts_itself_is_refused(node, message):
    with pytest.raises(ValueError, match=message):
        Network({}, (Input("x", "in", 8),), (Group("in", 3), Group("g", 4)), (node,))


def test_tables_of_one_key_must_be_one_operator():
    nodes = (Node("A", "conv", ("x",), units("g"), kernel=3, table="t"),
             Node("B", "conv", ("A",), units("g"), kernel=1, table="t"))
    with pytest.raises(ValueError, match="table t: its layers differ"):
        _ = Network({}, (Input("x", "in", 8),), (Group("in", 3), Group("g", 4)), nodes).tables


def test_depthwise_network_without_its_branch():
    network = depthwise_network()
    layers = network.layers(dict(network.full_widths, expanded=0))
    assert [a.node.name for a in layers] == ["Stem", "Depth", "Pool", "Classes"]
    assert [a.out_size for a in layers] == [6, 6, 1, 1]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_table_entry_is_a_network_of_that_operator(name):
    network = NETWORKS[name]
    for layer in network.layers(network.full_widths):
        if layer.node.table is None:
            continue
        one = network_of(network.tables[layer.node.table], layer.cin, layer.cout)
        last = one.layers(one.full_widths)[-1]
        assert (last.cin, last.cout, last.out_size) == (layer.cin, layer.cout, layer.out_size)
        assert last.node.kernel == layer.node.kernel and last.node.stride == layer.node.stride
