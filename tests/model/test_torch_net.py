"""torch's operators, each against a formula or torch's own module: the laws compare them with themselves alone."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from model.network import Group, Input, Network
from model.operators import ACTIVATIONS, Node, Segment, units
from model.torch_net import TorchNet
from tests.helpers import every_operator

GROUPS = (Group("in", 4, prunable=False), Group("a", 6), Group("u", 2))


def net(*nodes, size=(9, 7)):
    torch.manual_seed(0)
    network = Network({}, (Input("x", "in", size),), GROUPS, nodes)
    return TorchNet(network, network.full_widths).double().eval()


def images(sides=(9, 7)):
    return torch.randn(3, 4, *sides, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


FORMULAS = {
    "relu": lambda x: max(x, 0), "relu6": lambda x: min(max(x, 0), 6), "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "hard_sigmoid": lambda x: min(max(x + 3, 0), 6) / 6, "hard_swish": lambda x: x * min(max(x + 3, 0), 6) / 6,
    "silu": lambda x: x / (1 + math.exp(-x)), "leaky_relu": lambda x: x if x > 0 else 0.2 * x,
    "gelu": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2)))}


@pytest.mark.parametrize("name", [a for a in ACTIVATIONS if a])
def test_an_activation_is_its_formula_behind_a_layer_and_alone(name):
    x = torch.linspace(-8, 8, 4 * 9 * 7, dtype=torch.float64).reshape(1, 4, 9, 7)
    expected = torch.tensor([FORMULAS[name](float(v)) for v in x.flatten()], dtype=torch.float64).reshape(x.shape)
    for node in (Node("n", "activation", ("x",), activation=name, slope=0.2),
                 Node("n", "pad", ("x",), activation=name, slope=0.2)):
        kept = x.clone()
        torch.testing.assert_close(net(node)(x), expected, rtol=1e-6, atol=1e-9)
        assert torch.equal(x, kept)  # what others read is not changed


@pytest.mark.parametrize("kernel, stride, dilation", [(3, 1, 1), (3, 2, 1), ((3, 1), (1, 2), 1), (3, 1, 2), (5, 2, 1),
                                                      (1, 2, 1), (2, 2, 1)])
def test_same_padding_puts_the_odd_pixel_below_and_to_the_right(kernel, stride, dilation):
    model, x = net(Node("n", "conv", ("x",), units("a"), kernel, stride, dilation=dilation)), images()
    kernel, stride = ((k, k) if isinstance(k, int) else k for k in (kernel, stride))
    sides = [-(-side // s) for side, s in zip((9, 7), stride)]
    pads = [max((out - 1) * s + dilation * (k - 1) + 1 - side, 0)
            for out, s, k, side in zip(sides, stride, kernel, (9, 7))]
    padded = torch.zeros(3, 4, 9 + pads[0], 7 + pads[1], dtype=torch.float64)
    padded[:, :, pads[0] // 2:pads[0] // 2 + 9, pads[1] // 2:pads[1] // 2 + 7] = x
    for training in (False, True):
        model.train(training)
        torch.testing.assert_close(model(x), F.conv2d(padded, model.n.weight, None, stride, 0, dilation))


def test_explicit_padding_is_top_bottom_left_right():
    model, x = net(Node("n", "conv", ("x",), units("a"), 3, padding=(1, 0, 2, 1), bias=True)), images()
    padded = torch.zeros(3, 4, 10, 10, dtype=torch.float64)
    padded[:, :, 1:10, 2:9] = x
    torch.testing.assert_close(model(x), F.conv2d(padded, model.n.weight, model.n.bias))


def test_grouped_and_depthwise_convolutions_are_one_for_every_unit():
    model, x = net(Node("c", "conv", ("x",), (Segment("u", 3),), 3),
                   Node("n", "conv", ("c",), (Segment("u", 2),), 3, grouped=True)), images()
    c = model.c(x)
    torch.testing.assert_close(model(x), torch.cat([F.conv2d(c[:, 3 * u:3 * u + 3], model.n.weight[2 * u:2 * u + 2],
                                                             padding=1) for u in range(2)], 1))
    model = net(Node("n", "depthwise", ("x",), kernel=3, multiplier=2))
    torch.testing.assert_close(model(x), torch.cat([F.conv2d(x[:, c:c + 1], model.n.weight[2 * c:2 * c + 2], padding=1)
                                                    for c in range(4)], 1))


def test_a_max_pool_is_padded_with_minus_infinity_also_where_two_sides_differ():
    x = -1 - images().abs()
    for padding in ((1, 1, 1, 1), (1, 0, 0, 1)):
        found = net(Node("n", "max_pool", ("x",), kernel=3, stride=2, padding=padding))(x)
        top, bottom, left, right = padding
        padded = torch.full((3, 4, 9 + top + bottom, 7 + left + right), -math.inf, dtype=torch.float64)
        padded[:, :, top:top + 9, left:left + 7] = x
        assert torch.equal(found, F.max_pool2d(padded, 3, 2)) and found.max() < 0


@pytest.mark.parametrize("counted", [True, False])
def test_an_average_pool_counts_its_padding_or_not(counted):
    node = Node("n", "average_pool", ("x",), kernel=3, stride=3, padding=(1, 1, 1, 1), count_include_pad=counted)
    corner = net(node)(images())[:, :, 0, 0]
    torch.testing.assert_close(corner, images()[:, :, :2, :2].sum((2, 3)) / (9 if counted else 4))


def test_what_joins_and_hands_on_channels():
    x = images()
    a, b = Node("A", "conv", ("x",), units("a")), Node("B", "conv", ("x",), units("a"))
    model = net(a, b, Node("n", "add", ("A", "B")))
    torch.testing.assert_close(model(x), model.A(x) + model.B(x))
    model = net(a, b, Node("n", "multiply", ("A", "B")))
    torch.testing.assert_close(model(x), model.A(x) * model.B(x))
    for pool in (Node("p", "pool", ("B",)), Node("p", "adaptive_average_pool", ("B",))):
        model = net(a, b, pool, Node("n", "multiply", ("A", "p")))
        torch.testing.assert_close(model(x), model.A(x) * model.B(x).mean((2, 3), keepdim=True))
    model = net(a, b, Node("c", "concat", ("A", "B")), Node("n", "shuffle", ("c",), blocks=2))
    both = torch.cat([model.A(x), model.B(x)], 1)
    torch.testing.assert_close(model(x), nn.ChannelShuffle(2)(both))
    model = net(a, Node("U", "conv", ("x",), units("u")), Node("c", "concat", ("A", "U")),
                Node("n", "split", ("c",), part=(1, 2)))
    torch.testing.assert_close(model(x), model.U(x))
    model = net(a, Node("n", "flatten", ("A",)))
    torch.testing.assert_close(model(x), model.A(x).flatten(1))


def test_a_batch_norm_has_its_own_epsilon_and_momentum():
    for node in (Node("n", "batch_norm", ("x",), bn_epsilon=0.5, bn_momentum=0.25),
                 Node("n", "pad", ("x",), bn=True, bn_epsilon=0.5, bn_momentum=0.25)):
        model, x = net(node), 3 * images() + 2
        torch.testing.assert_close(model(x), x / math.sqrt(1.5))  # statistics begin at 0 and 1
        model.train()(x)
        (norm,) = model.batch_norms(model.layers[0])
        torch.testing.assert_close(norm.running_mean, 0.25 * x.mean((0, 2, 3)))


def test_scales_pads_and_drops():
    x = images()
    model = net(Node("n", "scale", ("x",)))
    with torch.no_grad():
        model.n.copy_(torch.tensor([1.0, 2.0, -1.0, 0.5]))
    torch.testing.assert_close(model(x), x * torch.tensor([1.0, 2.0, -1.0, 0.5]).view(1, 4, 1, 1))
    found = net(Node("n", "pad", ("x",), padding=(1, 0, 0, 2)))(x)
    assert found.shape == (3, 4, 10, 9) and torch.equal(found[:, :, 1:, :7], x) and found[:, :, 0].abs().sum() == 0
    model = net(Node("n", "dropout", ("x",), rate=0.25))
    assert torch.equal(model(x), x)
    dropped = (model.train()(x) == 0).double().mean()
    assert 0.15 < dropped < 0.35


def test_parameters_stand_under_the_paths_that_the_description_gives():
    """Paths may be names that the module itself uses."""
    network = every_operator()
    paths = {"stem": ("layers.0.conv", "layers.0.bn"), "scaled": ("network.gamma", None), "classes": ("widths", None)}
    nodes = tuple(replace(n, module=paths[n.name][0], bn_module=paths[n.name][1]) if n.name in paths else n
                  for n in network.nodes)
    moved = replace(network, nodes=nodes)
    one, other = (TorchNet(n, n.full_widths).eval() for n in (network, moved))
    names = [n for n in other.state_dict() if not n.endswith("num_batches_tracked")]
    assert set(names) == set(moved.weight_shapes(moved.full_widths))
    assert {"layers.0.conv.weight", "layers.0.bn.running_var", "network.gamma", "widths.bias"} <= set(names)
    renamed = zip(moved.weight_shapes(moved.full_widths), network.weight_shapes(network.full_widths))
    other.load_state_dict({new: one.state_dict()[old] for new, old in renamed}, strict=False)  # but counts of batches
    images = torch.randn(2, 3, 12, 10)
    assert torch.equal(one(images), other(images))
    assert torch.equal(copy.deepcopy(other)(images), other(images))
    with pytest.raises(ValueError, match="node classes: hidden.bias is also a parameter of another node"):
        replace(network, nodes=(*network.nodes[:-1], replace(network.nodes[-1], module="hidden")))
