"""Tables of networks that name none: by operator, shared where operators are the same, an entry for every width."""

from dataclasses import replace

import pytest

from model.network import Group, Input, Network
from model.operators import OPERATORS, Node, Segment, parameters_of, units
from model.variant import network_of
from tests.helpers import every_operator

EVERYTHING = every_operator()
LAYERS = {layer.node.name: layer for layer in EVERYTHING.layers(EVERYTHING.full_widths)}


def test_every_operator_that_takes_time_has_a_table():
    assert set(LAYERS) - set(EVERYTHING.priced) == {"dropped"}
    assert {EVERYTHING.tables[key].kind for key in EVERYTHING.priced.values()} == OPERATORS.keys() - {"dropout"}


@pytest.mark.parametrize("name", EVERYTHING.priced)
def test_an_entry_is_that_operator_alone(name):
    layer, table = LAYERS[name], EVERYTHING.tables[EVERYTHING.priced[name]]
    row, column = table.index(layer.cin, layer.cout)
    cin, cout = table.entry(row * table.columns + column)
    alone = network_of(table, cin, cout)
    found = alone.layers(alone.full_widths)[-1]
    assert (found.in_sides, found.out_sides, len(found.inputs)) == (layer.in_sides, layer.out_sides, len(layer.inputs))
    rounded = layer.cout % table.step_out
    assert abs(found.cout - layer.cout) <= rounded
    assert layer.node.kind != "concat" or table.step_out == len(layer.inputs)
    if not rounded:
        shapes = [[w.shape for w in parameters_of(replace(each.node, module="m", bn_module="n"), each.cin, each.cout)
                   .values() if len(w.shape) > 1] for each in (found, layer)]
        assert shapes[0] == shapes[1]


@pytest.mark.parametrize("key", EVERYTHING.tables)
def test_entries_have_numbers_of_their_own(key):
    table = EVERYTHING.tables[key]
    for number, (cin, cout) in enumerate(table.entries()):
        row, column = table.index(cin, cout)
        assert row * table.columns + column == number
        network_of(table, cin, cout).layers(network_of(table, cin, cout).full_widths)
    assert len(set(table.entries())) == table.rows * table.columns


def chain(*nodes, size=8, image=3):
    """A network of these nodes, each reading the one before unless it says otherwise; groups a to f of 8 channels."""
    groups = (Group("image", image, prunable=False), *(Group(letter, 8) for letter in "abcdef"),
              Group("classes", 4, prunable=False))
    before, made = "image", []
    for node in nodes:
        made.append(replace(node, inputs=node.inputs or (before,)))
        before = node.name
    tail = (Node("pool", "pool", (before,)), Node("classes", "linear", ("pool",), units("classes"), bias=True))
    return Network({"net": "chain"}, (Input("image", "image", size),), groups, (*made, *tail))


def conv(name, group, **fields):
    return Node(name, "conv", (), units(group), **{"kernel": 3, "padding": (1, 1, 1, 1), **fields})


def test_layers_of_one_operator_share_a_table_as_wide_as_the_widest():
    network = chain(conv("one", "a"), conv("two", "b", bn=True), conv("three", "c", bias=True))
    network = replace(network, groups=tuple(replace(g, width=16) if g.name == "c" else g for g in network.groups))
    assert network.priced == {"one": "conv_3x3_p1_from3_at_8x8", "two": "conv_3x3_p1_at_8x8",
                              "three": "conv_3x3_p1_at_8x8", "pool": "pool_at_8x8", "classes": "linear_to4_at_1x1"}
    table = network.tables["conv_3x3_p1_at_8x8"]
    assert table.shape == (8, 16) and table.node.bn and table.node.bias
    assert network.tables["conv_3x3_p1_from3_at_8x8"].shape == (1, 8)
    assert network.tables["linear_to4_at_1x1"].shape == (16, 1) and not network.tables["linear_to4_at_1x1"].optional


@pytest.mark.parametrize("fields, key", [
    ({}, "conv_3x3_p1_at_8x8"), ({"kernel": 5, "padding": (2, 2, 2, 2)}, "conv_5x5_p2_at_8x8"),
    ({"stride": 2}, "conv_3x3_s2_p1_at_8x8"), ({"stride": (2, 1)}, "conv_3x3_s2x1_p1_at_8x8"),
    ({"padding": None}, "conv_3x3_same_at_8x8"), ({"padding": (0, 0, 0, 0)}, "conv_3x3_at_8x8"),
    ({"padding": (0, 1, 0, 1)}, "conv_3x3_p0.1.0.1_at_8x8"), ({"dilation": 2}, "conv_3x3_d2_p1_at_8x8"),
    ({"activation": "relu"}, "conv_3x3_p1_at_8x8_relu"), ({"bn": True}, "conv_3x3_p1_at_8x8")])
def test_a_key_says_all_that_the_latency_depends_on(fields, key):
    assert chain(conv("one", "a"), conv("two", "b", **fields)).priced["two"] == key


@pytest.mark.parametrize("node, key, shape, steps", [
    (Node("x", "depthwise", (), kernel=3, padding=(1, 1, 1, 1), multiplier=2), "depthwise_3x3_p1_times2_at_8x8", (8, 1),
     (1, 2)),
    (Node("x", "add", ("one", "one", "one"), activation="relu"), "add_3_at_8x8_relu", (8, 1), (1, 1)),
    (Node("x", "add", ("one", "one"), bn=True), "add_2_at_8x8_bn", (8, 1), (1, 1)),
    (Node("x", "concat", ("one", "one", "one")), "concat_3_at_8x8", (8, 1), (1, 3)),
    (Node("x", "average_pool", (), kernel=2, stride=2, ceil_mode=True, count_include_pad=False),
     "average_pool_2x2_s2_ceil_without_padding_at_8x8", (8, 1), (1, 1)),
    (Node("x", "adaptive_max_pool", (), size=(2, 1)), "adaptive_max_pool_to2x1_at_8x8", (8, 1), (1, 1)),
    (Node("x", "activation", (), activation="gelu"), "activation_at_8x8_gelu", (8, 1), (1, 1))])
def test_operators_without_filters_have_one_column(node, key, shape, steps):
    table = chain(conv("one", "a"), node).tables[key]
    assert (table.shape, (table.step_in, table.step_out)) == (shape, steps)


def test_a_split_is_timed_as_half_of_what_it_reads():
    tables = EVERYTHING.tables.values()
    split, = (table for table in tables if table.kind == "split")
    assert split.entry(2) == (6, 3)


def test_channels_that_come_in_blocks_are_counted_in_blocks():
    groups = (Group("image", 3, prunable=False), Group("a", 6), Group("b", 4), Group("classes", 5, prunable=False))
    nodes = (Node("stem", "conv", ("image",), (Segment("b", 4),)),
             Node("grouped", "conv", ("stem",), (Segment("b", 2),), kernel=3, grouped=True),
             Node("flat", "flatten", ("grouped",)), Node("hidden", "linear", ("flat",), units("a")),
             Node("classes", "linear", ("hidden",), units("classes")))
    network = Network({"net": "blocks"}, (Input("image", "image", 5),), groups, nodes)
    shapes = {network.priced[name]: network.tables[network.priced[name]] for name in network.priced}
    assert {key: (t.shape, t.step_in, t.step_out) for key, t in shapes.items()} == {
        "conv_1x1_same_from3_at_5x5": ((1, 4), 1, 4), "conv_3x3_same_groups_4to2_at_5x5": ((4, 1), 1, 2),
        "flatten_at_5x5": ((8, 1), 1, 25), "linear_at_1x1": ((4, 6), 50, 1), "linear_to5_at_1x1": ((6, 1), 1, 1)}
    assert network.tables["linear_at_1x1"].index(150, 2) == (2, 1)
    assert network.tables["linear_at_1x1"].index(130, 2) == (2, 1) != network.tables["linear_at_1x1"].index(120, 2)
    assert list(network.tables["conv_3x3_same_groups_4to2_at_5x5"].entries()) == [(4, 2), (8, 4), (12, 6), (16, 8)]


def test_a_table_that_layers_share_has_the_steps_of_all():
    groups = (Group("image", 3, prunable=False), Group("a", 8), Group("b", 6), Group("c", 4),
              Group("classes", 5, prunable=False))
    nodes = (Node("stem", "conv", ("image",), units("a")), Node("flat", "flatten", ("stem",)),
             Node("one", "linear", ("flat",), units("b")), Node("two", "linear", ("one",), (Segment("c", 2),)),
             Node("classes", "linear", ("two",), units("classes")))
    network = Network({"net": "steps"}, (Input("image", "image", 2),), groups, nodes)
    shared, last = (network.tables[network.priced[name]] for name in ("two", "classes"))
    assert network.priced["one"] == network.priced["two"] == shared.key
    assert (shared.shape, shared.step_in, shared.step_out) == ((32, 8), 1, 1)
    assert (last.shape, last.step_in) == ((4, 1), 2)


def test_names_that_an_architecture_gives_are_kept():
    named = chain(replace(conv("one", "a"), table="Stem"), conv("two", "b"))
    assert named.priced == {"one": "Stem"}
