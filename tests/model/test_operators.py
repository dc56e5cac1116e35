"""Operators: shapes are what torch computes, what does not fit is refused by name, and what lives without what."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.network import Group, Input, Network
from model.operators import Node, units
from model.torch_net import TorchNet
from tests.helpers import every_operator
from utils.latency.correction import judging_networks
from utils.search import baselines, netadapt
from utils.search.space import Space

EVERYTHING = every_operator()
GROUPS = (Group("in", 4, prunable=False), Group("a", 6), Group("b", 6))


def network(*nodes, size=8, groups=GROUPS):
    return Network({}, (Input("x", "in", size),), groups, nodes)


def run(net):
    widths = net.full_widths
    return TorchNet(net, widths).eval()(torch.randn(2, *[widths[net.inputs[0].group]], *net.inputs[0].sides))


# --- shapes ----------------------------------------------------------------------------------------------------

PAIRS = st.one_of(st.integers(1, 4), st.tuples(st.integers(1, 4), st.integers(1, 4)))


@given(kind=st.sampled_from(["conv", "depthwise", "max_pool", "average_pool"]), kernel=PAIRS, stride=PAIRS,
       sides=st.tuples(st.integers(5, 13), st.integers(5, 13)), dilation=st.integers(1, 2), ceil_mode=st.booleans(),
       padding=st.one_of(st.none(), st.tuples(*[st.integers(0, 2)] * 4)))
def test_sides_are_what_torch_computes(kind, kernel, stride, sides, dilation, ceil_mode, padding):
    pool = kind.endswith("pool")
    node = Node("n", kind, ("x",), units("a") if kind == "conv" else (), kernel, stride, padding=padding,
                dilation=1 if kind == "average_pool" else dilation, ceil_mode=ceil_mode and pool)
    try:
        net = network(node, size=sides)
    except ValueError as error:  # a window that does not fit, or padding that no pool takes
        assert str(error).startswith(f"node n: a {kind}: ")
        return
    assert tuple(run(net).shape[2:]) == net.tensors["n"].sides == net.layers(net.full_widths)[0].out_sides


@pytest.mark.parametrize("kernel, stride, padding", [(1, 4, 0), (2, 3, 0), (2, 3, 1), (3, 2, 1), (3, 4, 1), (2, 5, 1)])
@pytest.mark.parametrize("kind", ["max_pool", "average_pool"])
def test_a_last_window_begins_inside_the_map_or_the_padding_before_it(kind, kernel, stride, padding):
    for side in range(5, 14):
        net = network(Node("n", kind, ("x",), kernel=kernel, stride=stride, padding=(padding,) * 4, ceil_mode=True),
                      size=side)
        assert tuple(run(net).shape[2:]) == net.tensors["n"].sides, side


def test_every_operators_shape_is_what_torch_computes():
    seen, net = {}, TorchNet(EVERYTHING, EVERYTHING.full_widths).eval()
    real = net._run
    net._run = lambda layer, inputs: seen.setdefault(layer.node.name, real(layer, inputs))
    net(torch.randn(2, 3, 12, 10))
    for layer in net.layers:
        tensor = EVERYTHING.tensors[layer.node.name]
        assert tuple(seen[layer.node.name].shape) == (2, layer.cout, *(() if tensor.flat else tensor.sides))
    assert len(seen) == len(EVERYTHING.nodes)


# --- what does not fit -----------------------------------------------------------------------------------------

A = Node("A", "conv", ("x",), units("a"))
B = Node("B", "conv", ("x",), units("b"))
HALF = Node("H", "conv", ("x",), units("a"), stride=2)


@pytest.mark.parametrize("nodes, words", [
    ([Node("n", "conv", ("x",))], "node n: a conv: writes no group"),
    ([A, Node("n", "pad_channels", ("A",), units("b", "a"), part=(0, 1))], "as segments 0 to 1, found"),
    ([A, Node("n", "layer_norm", ("A",))], "a layer_norm needs all channels of a, which is prunable"),
    ([A, Node("n", "add", ("A",))], "1 inputs, expected 2 or more"),
    ([A, B, Node("n", "add", ("A", "B"))], r"operands differ: a \(8x8\); b \(8x8\)"),
    ([A, HALF, Node("n", "add", ("A", "H"))], r"operands differ: a \(8x8\); a \(4x4\)"),
    ([A, HALF, Node("n", "multiply", ("A", "H"))], "operands differ"),
    ([A, HALF, Node("n", "concat", ("A", "H"))], "operands differ in sides"),
    ([A, Node("n", "split", ("A",), part=(0, 2))], "part 0 to 2 of 1 segments"),
    ([A, B, Node("c", "concat", ("A", "B")), Node("n", "shuffle", ("c",), blocks=2)],
     "expected 2 blocks with the same segments"),
    ([A, Node("n", "conv", ("A",), units("b"), grouped=True)], "keeps the units of its input"),
    ([A, Node("n", "activation", ("A",), activation="swish")], "unknown activation 'swish', expected one of relu"),
    ([A, Node("n", "max_pool", ("A",), kernel=2, padding=(2, 2, 2, 2))], "more than half of the window"),
    ([A, Node("n", "max_pool", ("A",), kernel=9)], "a window of 9 pixels does not fit into 8"),
    ([A, Node("n", "adaptive_max_pool", ("A",), size=3)], r"a map of \(8, 8\) does not divide into \(3, 3\)"),
    ([A, Node("n", "batch_norm", ("A",), units("b"))], "keeps the channels of its inputs"),
    ([Node("n", "attention", ("x",))], "unknown kind 'attention', expected one of conv, ")])
def test_what_does_not_fit_is_said_with_its_node(nodes, words):
    with pytest.raises(ValueError, match=words) as caught:
        network(*nodes)
    assert str(caught.value).startswith("node n: ")


@pytest.mark.parametrize("readers, words", [(1, None), (2, "^pool: read by A and B, each of which would be measured")])
def test_a_pool_is_priced_once(readers, words):
    more = (Node("B", "linear", ("pool",), units("b"), table="B"), Node("both", "concat", ("A", "B")))
    more = more if readers == 2 else ()
    net = network(Node("pool", "pool", ("x",)), Node("idle", "dropout", ("pool",)),
                  Node("A", "linear", ("idle",), units("a"), table="A"), *more)
    if words is None:
        assert net.tables["A"].operator == "average pool, 1x1 linear, stride 1, 8x8"
        return
    with pytest.raises(ValueError, match=words):
        _ = net.tables
    own = replace(net, nodes=(replace(net.nodes[0], table="pool"), *net.nodes[1:]))
    assert {key: (t.pooled, t.shape) for key, t in own.tables.items()} == {
        "pool": (False, (4, 1)), "A": (False, (4, 6)), "B": (False, (4, 6))}


# --- what lives ------------------------------------------------------------------------------------------------

def names(net, **removed):
    return [layer.node.name for layer in net.layers({**net.full_widths, **removed})]


def test_an_addition_goes_on_with_what_lives_and_keeps_its_activation_where_it_matters():
    def net(activation):
        return network(Node("A", "conv", ("x",), units("a"), activation=activation),
                       Node("I", "conv", ("A",), units("b")), Node("O", "conv", ("I",), units("a")),
                       Node("sum", "add", ("A", "O"), activation="relu"),
                       groups=(*GROUPS[:2], Group("b", 6, removable=True)))
    assert names(net("relu"), b=0) == ["A"]  # what cannot be negative needs no ReLU
    assert names(net("leaky_relu"), b=0) == ["A", "sum"]
    assert names(net("relu")) == ["A", "I", "O", "sum"]


def test_a_product_without_its_gate_is_the_map_and_without_its_map_is_gone():
    gone = names(EVERYTHING, E=0)
    assert "gated" not in gone and not {"mean", "squeeze", "excite"} & set(gone)  # nobody reads the mean any more
    layers = {layer.node.name: layer for layer in EVERYTHING.layers({**EVERYTHING.full_widths, "E": 0})}
    assert layers["squares"].inputs == ("sum", "shuffled") and layers["sum"].inputs == ("shuffled", "shuffled", "side")


def test_a_concatenation_drops_what_has_no_channels():
    layers = {layer.node.name: layer for layer in EVERYTHING.layers({**EVERYTHING.full_widths, "U": 0})}
    assert not {"unit", "grouped", "max", "joined", "first", "side"} & set(layers)
    assert layers["norm"].inputs == ("two",) and layers["norm"].cout == 9


TWO = network(A, Node("L", "conv", ("A",), units("l")), Node("l", "conv", ("L",), units("b")),
              Node("R", "conv", ("A",), units("r")), Node("r", "conv", ("R",), units("b")),
              Node("sum", "add", ("l", "r")), Node("P", "pool", ("sum",)), Node("Y", "linear", ("P",), units("y")),
              groups=(*GROUPS, Group("l", 3, removable=True), Group("r", 3, removable=True),
                      Group("y", 2, prunable=False)))


def test_of_two_groups_that_may_go_each_not_both_may():
    assert TWO.lives({**TWO.full_widths, "l": 0}) and TWO.lives({**TWO.full_widths, "r": 0})
    assert not TWO.lives({**TWO.full_widths, "l": 0, "r": 0})
    with pytest.raises(ValueError, match="nothing reaches the output Y"):
        TWO.layers({**TWO.full_widths, "l": 0, "r": 0})


def test_whoever_draws_or_proposes_widths_asks(monkeypatch):
    def latency(widths):
        return 1e-3 * TWO.multiply_adds(widths)
    for widths in judging_networks(TWO, 200, 0):
        TWO.layers(widths)
    left = {**TWO.full_widths, "l": 0, "r": 1}
    assert netadapt.removal(TWO, left, "r", latency, 0.0, True) is None
    assert netadapt.removal(TWO, {**left, "l": 1}, "r", latency, 0.0, True) is not None
    saliency = {g.name: [1e-9 if g.name in "lr" else 1.0] * g.width for g in TWO.groups if g.prunable}
    for budget in (0.7, 0.4, 0.2):
        TWO.layers(baselines.knapsack(Space(TWO), TWO.full_widths, latency, budget * latency(TWO.full_widths),
                                      saliency))


def test_a_part_that_readers_count_on_must_not_die_alone():
    net = network(A, Node("I", "conv", ("A",), units("i")), Node("O", "conv", ("I",), units("b")),
                  Node("both", "concat", ("A", "O")), groups=(*GROUPS, Group("i", 2, removable=True)))
    with pytest.raises(ValueError, match="at these widths O is gone, but both needs its channels"):
        net.layers({**net.full_widths, "i": 0})


# --- counts ----------------------------------------------------------------------------------------------------

def test_every_parameter_and_multiplication_is_counted():
    net = TorchNet(EVERYTHING, EVERYTHING.full_widths)
    assert EVERYTHING.parameter_count(EVERYTHING.full_widths) == sum(p.numel() for p in net.parameters())
    small = network(Node("c", "conv", ("x",), units("a"), kernel=(3, 1)), size=(4, 6))
    assert small.multiply_adds(small.full_widths) == 6 * 4 * 3 * 4 * 6


def test_channel_files_hold_hidden_layers_and_several_groups():
    channels = EVERYTHING.conv_channels({**EVERYTHING.full_widths, "C": 2, "U": 3})
    assert channels["hidden"] == 7 and "classes" not in channels
    assert (channels["two:C"], channels["two:D"], channels["excite:C"], channels["unit"]) == (2, 4, 4, 6)
    widths = EVERYTHING.widths_of_channels(channels)
    assert widths == {**EVERYTHING.full_widths, "C": 2, "U": 3}
    with pytest.raises(ValueError, match="unit: 5 channels, expected a multiple of 2"):
        EVERYTHING.widths_of_channels({**channels, "unit": 5})
