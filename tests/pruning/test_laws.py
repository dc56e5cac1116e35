"""Law 1: a network without channels computes what the whole one does with those channels at zero.

On random descriptions of all operators, removals included; in float64, relative to how far outputs are apart between
images. Every test here has a control that fails.
"""

from functools import cache

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from model import surgery, torch_net
from model.network import Group, Input, Network
from model.operators import ACTIVATIONS, OPERATORS, Node, Segment, units
from model.torch_net import TorchNet
from model.zeroing import Zeroed
from tests.helpers import EXAMPLES, every_operator, lively, sensitive

EXACT, WRONG = 1e-9, 1e-4  # of the spread of outputs between images
EVERY_OPERATOR = every_operator()


# --- random descriptions ---------------------------------------------------------------------------------------

class Sketch:
    """A network in the making: every call adds an operator to the tensors there are."""

    def __init__(self, draw, sides):
        self.draw, self.groups, self.nodes = draw, [Group("image", 3, prunable=False)], []
        self.sides = sides
        self.convolve("image", units("stem"), [("stem", 4)])

    def network(self, more=()):
        return Network({"net": "random", "num_classes": 3}, (Input("image", "image", self.sides),),
                       (*self.groups, Group("classes", 3, prunable=False)), (*self.nodes, *more))

    def tensors(self):
        return self.network().tensors

    def add(self, kind, inputs, channels=(), **more):
        more = {"activation": self.draw(st.sampled_from(ACTIVATIONS)), **more}
        if self.draw(st.booleans()) and kind not in ("activation",):
            more.setdefault("bn", True)
        self.nodes.append(Node(f"n{len(self.nodes)}", kind, tuple(inputs), channels, **more))
        try:
            self.network()
        except ValueError:  # sides that do not divide, say
            self.nodes.pop()

    def convolve(self, read, channels, new=(), **more):
        self.groups += [Group(name, width) for name, width in new]
        kernel = self.draw(st.sampled_from([1, 3, (3, 1)]))
        padding = self.draw(st.sampled_from([None, (1, 1, 1, 1), (0, 1, 0, 1)]))
        self.add("conv", [read], channels, kernel=kernel, padding=padding if kernel == 3 else None,
                 stride=self.draw(st.sampled_from([1, 1, 2])), bias=self.draw(st.booleans()), **more)

    def step(self):
        tensors = self.tensors()
        read = self.draw(st.sampled_from(sorted(tensors)[-4:]))
        x, name = tensors[read], f"g{len(self.nodes)}"
        alike = [n for n, t in tensors.items() if t == x and n != "image"]
        near = [n for n, t in tensors.items() if (t.sides, t.flat) == (x.sides, x.flat) and n != "image"]
        choice = self.draw(st.sampled_from(["conv", "two", "branch", "grouped", "depthwise", "concat", "split",
                                            "shuffle", "add", "multiply", "gate", "pool", "plain"]))
        width = self.draw(st.integers(1, 4))
        if read == "image" or x.flat:
            return
        if choice == "conv":
            self.convolve(read, (Segment(name, self.draw(st.integers(1, 2))),), [(name, width)])
        elif choice == "two":
            self.convolve(read, units(name, name + "b"), [(name, width), (name + "b", 2)])
        elif choice == "branch":  # of what it is added to
            self.groups.append(Group(name, width))
            self.add("conv", [read], units(name), kernel=3)
            if self.nodes[-1].channels == units(name):
                self.add("conv", [self.nodes[-1].name], x.channels, kernel=1)
                self.add("add", [self.nodes[-1].name, read])
        elif choice == "grouped":
            repeats = {s.repeat for s in x.channels}
            if len(repeats) == 1:
                self.add("conv", [read], tuple(Segment(s.group, 2) for s in x.channels), kernel=3, grouped=True)
        elif choice == "depthwise":
            self.add("depthwise", [read], kernel=3, multiplier=self.draw(st.integers(1, 2)))
        elif choice == "concat":
            self.add("concat", [read, *self.draw(st.lists(st.sampled_from(near), min_size=1, max_size=2))])
        elif choice == "split" and len(x.channels) > 1:
            cut = self.draw(st.integers(1, len(x.channels) - 1))
            self.add("split", [read], part=(0, cut))
            self.add("split", [read], part=(cut, len(x.channels)))
        elif choice == "shuffle" and len(alike) > 1:
            self.add("concat", alike[:2], activation="")
            self.add("shuffle", [self.nodes[-1].name], blocks=2)
        elif choice == "add" and len(alike) > 1:
            self.add("add", self.draw(st.permutations(alike))[:3])
        elif choice == "multiply" and len(alike) > 1:
            self.add("multiply", self.draw(st.permutations(alike))[:2])
        elif choice == "gate":
            self.groups.append(Group(name, 2))
            self.add(*self.draw(st.sampled_from([("pool", [read]), ("adaptive_average_pool", [read])])), bn=False)
            flat = self.tensors()[self.nodes[-1].name].flat
            self.add("linear" if flat else "conv", [self.nodes[-1].name], units(name), bias=True)
            self.add("linear" if flat else "conv", [self.nodes[-1].name], x.channels, bias=True, activation="sigmoid")
            self.add("multiply", [read, self.nodes[-1].name])
        elif choice == "pool":
            self.add(self.draw(st.sampled_from(["max_pool", "average_pool"])), [read], kernel=2, stride=2,
                     padding=self.draw(st.sampled_from([None, (1, 1, 1, 1)])), ceil_mode=self.draw(st.booleans()),
                     count_include_pad=self.draw(st.booleans()))
        elif choice == "plain":
            kind = self.draw(st.sampled_from(["batch_norm", "activation", "scale", "pad", "dropout"]))
            self.add(kind, [read], **({"padding": (1, 0, 0, 1)} if kind == "pad" else {}))

    def finished(self):
        """With a head on the last map, and every group removable that may go alone."""
        last = next(n.name for n in reversed(self.nodes) if not self.tensors()[n.name].flat)
        head = [Node("head", self.draw(st.sampled_from(["pool", "flatten"])), (last,)),
                Node("classes", "linear", ("head",), units("classes"), bias=True)]
        network = self.network(head)
        removable = {g.name for g in network.groups if g.prunable
                     and network.lives({**network.full_widths, g.name: 0})}
        groups = tuple(Group(g.name, g.width, g.prunable, g.name in removable) for g in network.groups)
        return Network(network.arguments, network.inputs, groups, network.nodes)


@st.composite
def networks(draw):
    sketch = Sketch(draw, draw(st.sampled_from([8, (9, 7)])))
    for _ in range(draw(st.integers(2, 9))):
        sketch.step()
    return sketch.finished()


# --- how far outputs are apart ----------------------------------------------------------------------------------

def images(network, number=8):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(number, 3, *network.inputs[0].sides, generator=generator, dtype=torch.float64)


def apart(found, expected):
    """How far two outputs are apart, relative to how far those of different images are."""
    return float((found - expected).abs().max()) / spread(expected)


def spread(outputs):
    return float((outputs.max(0).values - outputs.min(0).values).max())


@st.composite
def kept(draw, network, most=False):
    """Channels that stay, of every prunable group: few, or most; none of them where that is allowed."""
    keep = {}
    for group in (g for g in network.groups if g.prunable):
        least = 0 if group.removable and draw(st.integers(0, 2)) == 0 else 1
        if most:
            gone = draw(st.sets(st.integers(0, group.width - 1), max_size=group.width // 2))
            stay = {*range(group.width)} - gone if least else set()
        else:
            stay = draw(st.sets(st.integers(0, group.width - 1), min_size=least, max_size=group.width * (least or 0)))
        without = {**network.full_widths, **{g: len(i) for g, i in keep.items()}, group.name: len(stay)}
        keep[group.name] = torch.tensor(sorted(stay) if network.lives(without) else [0], dtype=torch.long)
    return keep


@cache
def weights_of_example(number):
    network = EXAMPLES[number]
    return sensitive(TorchNet(network, network.full_widths)).state_dict()


def outputs(network, keep):
    """(of the narrow network, of the whole one with zeros)"""
    whole = lively(Zeroed(network, network.full_widths))
    if network in EXAMPLES:
        whole.load_state_dict(weights_of_example(EXAMPLES.index(network)))
    whole = whole.double()
    narrow = surgery.slice_channels(whole, keep).double().eval()
    with torch.no_grad():
        return narrow(images(network)), whole.without(keep)(images(network))


@given(data=st.data())
def test_pruning_random_networks_is_zeroing(data):
    network = data.draw(networks())
    keep = data.draw(kept(network))
    found, expected = outputs(network, keep)
    assume(spread(expected) > 1e-6)  # else the network says nothing of its images
    assert apart(found, expected) < EXACT


@given(data=st.data())
def test_pruning_all_operators_at_once_is_zeroing(data):
    found, expected = outputs(EVERY_OPERATOR, data.draw(kept(EVERY_OPERATOR)))
    assume(spread(expected) > 1e-6)  # else the network says nothing of its images
    assert apart(found, expected) < EXACT


@pytest.mark.parametrize("network", EXAMPLES, ids=[n.short_name for n in EXAMPLES])
@given(data=st.data())
def test_pruning_an_architecture_is_zeroing(network, data):
    """But for branches that take their addition's batch norm along, which test_surgery.py looks at."""
    transparent = any(node.transparent for node in network.nodes)
    keep = {g: index for g, index in data.draw(kept(network, most=True)).items() if len(index) or not transparent}
    found, expected = outputs(network, keep)
    assume(spread(expected) > 1e-6)  # else the network says nothing of its images
    assert apart(found, expected) < EXACT


def test_every_operator_is_there_and_every_backend_knows_it():
    assert {node.kind for node in EVERY_OPERATOR.nodes} == set(OPERATORS)
    assert {*torch_net.MODULES, *torch_net.RUN} == set(OPERATORS)


# --- controls: each of these mistakes is seen ------------------------------------------------------------------

KEEP = {"A": torch.tensor([0, 2, 3, 7]), "U": torch.tensor([1, 3]), "C": torch.tensor([0, 2, 4]),
        "D": torch.tensor([1, 2]), "E": torch.tensor([0, 2]), "H": torch.tensor([0, 1, 5])}


@pytest.mark.parametrize("name", list(EVERY_OPERATOR.weight_shapes(EVERY_OPERATOR.full_widths)))
def test_a_wrong_channel_in_any_weight_is_seen(name):
    whole = lively(Zeroed(EVERY_OPERATOR, EVERY_OPERATOR.full_widths)).double()
    for parameter in whole.parameters():  # biases begin at zero
        if parameter.dim() == 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    narrow = surgery.slice_channels(whole, KEEP).double().eval()
    state = narrow.state_dict()
    state[name] = state[name].roll(1, 0)
    narrow.load_state_dict(state)
    with torch.no_grad():
        assert apart(narrow(images(EVERY_OPERATOR)), whole.without(KEEP)(images(EVERY_OPERATOR))) > WRONG


@pytest.mark.parametrize("kind", sorted(set(OPERATORS) - {"pool", "dropout"}))
def test_an_operator_that_mixes_channels_up_is_seen(monkeypatch, kind):
    real = TorchNet._run

    def wrong(self, layer, inputs):
        x = real(self, layer, inputs)
        return x.roll(1, 1) if layer.node.kind == kind and not isinstance(self, Zeroed) else x

    monkeypatch.setattr(TorchNet, "_run", wrong)
    found, expected = outputs(EVERY_OPERATOR, KEEP)
    assert apart(found, expected) > WRONG
