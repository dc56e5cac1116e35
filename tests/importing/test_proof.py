"""Modules read in, in process: exact for what users write, refused by name for what has no counterpart; the proof fails
for one changed weight, one exchanged index, one wrong padding."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from model.network import Network
from model.torch_net import TorchNet
from model.traced import described
from model.tracer import Refused
from model.tracing import traced
from tests.nets import CifarNet, Named, Odds, Refusable, several_inputs, tuple_output
from utils.common.errors import UserError
from utils.importing import proof
from utils.importing.report import prunable_share, tied
from utils.importing.weights import with_weights


def read(module, sides=(16, 16), kept=()):
    torch.manual_seed(0)
    trace = traced(module.eval(), sides)
    return trace, described(trace.steps, dict(kept))


def proved(module, sides=(16, 16), change=lambda found: found):
    trace, found = read(module, sides)
    return proof.prove(module, trace, change(found), 0)


MODULES = {"A": (lambda: CifarNet("A", blocks=2), (16, 16)), "B": (lambda: CifarNet("B"), (16, 12)),
           "odds": (Odds, (28, 28)), "named": (Named, (8, 8))}


@pytest.mark.parametrize("name", MODULES)
def test_what_users_write_is_read_in_exactly(name):
    make, sides = MODULES[name]
    found = proved(make(), sides)
    assert found.max_difference <= 1e-9 and found.sliced_vs_zeroed <= 1e-9
    assert set(found.imported) == {proof.GIVEN, proof.SEEDED}


@pytest.mark.parametrize("name", MODULES)
def test_a_large_network_is_proved_with_fewer_images(name, monkeypatch):
    monkeypatch.setattr(proof, "LARGE", 0)
    make, sides = MODULES[name]
    found = proved(make(), sides)
    assert found.max_difference <= 1e-9 and found.sliced_vs_zeroed <= 1e-9
    assert (set(found.imported), set(found.pruned)) == ({proof.GIVEN, proof.SEEDED}, {proof.SEEDED})


@pytest.mark.parametrize("name", MODULES)
def test_all_channels_but_images_and_classes_can_be_pruned(name):
    make, sides = MODULES[name]
    network = read(make(), sides)[1].network
    assert prunable_share(network) == 1.0
    assert [g.name for g in network.groups if not g.prunable] == [
        "image", {"odds": "classes", "named": "batch_norms"}.get(name, "fc")]


def test_groups_are_what_lies_together():
    network = read(CifarNet("B"))[1].network
    assert tied(network)["stem"] == ["stem", "blocks.0.conv2"]
    assert tied(network)["blocks_1_conv2"] == ["blocks.1.conv2", "blocks.1.shortcut.0"]
    assert [g.name for g in network.groups if g.removable] == [f"blocks_{n}_conv1" for n in range(3)]


def test_zero_padded_channels_are_groups_of_their_own():
    network = read(CifarNet("A"))[1].network
    assert {g.name: g.width for g in network.groups} == {
        "image": 3, "stem": 8, "blocks_0_conv1": 8, "blocks_1_conv1": 16, "blocks_1_conv2": 4, "blocks_1_conv2_2": 4,
        "blocks_2_conv1": 32, "blocks_2_conv2": 8, "blocks_2_conv2_2": 8, "fc": 10}


def test_parameters_keep_the_names_of_the_users_module():
    module = CifarNet("B")
    _, found = read(module)
    mine = module.state_dict()
    names = {name for name in mine if "num_batches" not in name}
    assert names == set(found.network.weight_shapes(found.network.full_widths))
    state = with_weights(TorchNet, found, mine).state_dict()
    assert all(torch.equal(state[name], value) for name, value in mine.items())


def test_a_layer_that_is_kept_locks_its_group_and_says_so():
    _, found = read(CifarNet("B"), kept={"blocks.1.conv1.weight": "asked for"})
    assert not found.network.group["blocks_1_conv1"].prunable and found.reasons["blocks_1_conv1"] == "asked for"


# --- the proof can fail ----------------------------------------------------------------------------------------

def changed_node(name, **fields):
    def change(found):
        nodes = tuple(replace(n, **fields) if n.name == name else n for n in found.network.nodes)
        assert nodes != found.network.nodes
        network = found.network
        return replace(found, network=Network(network.arguments, network.inputs, network.groups, nodes))
    return change


def exchanged(parameter, axis):
    def change(found):
        order = np.arange(found.network.weight_shapes(found.network.full_widths)[parameter][axis])
        order[[0, 1]] = 1, 0
        return replace(found, orders={parameter: {axis: order}})
    return change


@pytest.mark.parametrize("change, first", [
    (changed_node("blocks_1_conv1", padding=(0, 2, 0, 2)), "blocks_1_conv1"),
    (changed_node("stem", bn_epsilon=1.1e-5), "stem"),
    (changed_node("blocks_0_conv1", activation="gelu"), "blocks_0_conv1"),
    (exchanged("blocks.2.conv1.weight", 1), "blocks_2_conv1"),
    (exchanged("fc.weight", 0), "fc")])
def test_one_mistake_is_seen_and_the_first_tensor_that_differs_is_named(change, first):
    with pytest.raises(UserError, match=f"the first tensor that differs is {first} "):
        proved(CifarNet("B"), change=change)


def test_one_changed_weight_is_seen(monkeypatch):
    def wrong(kind, described, state):
        state = {**state, "blocks.1.conv2.weight": state["blocks.1.conv2.weight"].clone()}
        state["blocks.1.conv2.weight"][3, 2, 1, 1] += 1e-6
        return with_weights(kind, described, state)

    monkeypatch.setattr(proof, "with_weights", wrong)
    with pytest.raises(UserError, match="outputs differ from the module's by .* first tensor that differs is blocks_1"):
        proved(CifarNet("B"))


def test_a_wrong_channel_in_pruning_is_seen(monkeypatch):
    real = proof.surgery.sliced

    def wrong(*given):
        state = real(*given)
        return {**state, "fc.weight": state["fc.weight"].roll(1, 1)}

    monkeypatch.setattr(proof.surgery, "sliced", wrong)
    with pytest.raises(UserError, match="a pruned network differs from the whole one with channels at zero by"):
        proved(CifarNet("B"))


def test_outputs_that_do_not_vary_prove_nothing():
    with pytest.raises(UserError, match="cannot be proved: .* outputs hardly vary between images"):
        proved(Silent(), (8, 8))


class Blind(nn.Module):
    """A convolution whose filters are zero, and no parameter."""

    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.zeros(4, 3, 1, 1))

    def forward(self, x):
        return F.conv2d(x, self.weight)


class Silent(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.classes = Blind(), nn.Linear(4, 4)

    def forward(self, x):
        return self.classes(self.conv(x).mean((2, 3)))


def test_given_weights_that_say_nothing_are_said():
    module = CifarNet("B")
    nn.init.zeros_(module.stem.weight)
    found = proved(module)
    assert list(found.imported) == [proof.SEEDED]
    assert "outputs hardly vary between images" in list(found.lines())[-1]


def hard_sigmoid(x):
    return F.relu6(x + 3) / 6


ACCEPTED = {
    "hard sigmoid": (lambda net, x: hard_sigmoid(x), "hard_sigmoid"),
    "hard swish": (lambda net, x: net.query(x * F.relu6(x + 3) * (1 / 6)), "hard_swish"),
    "hard swish of a sigmoid": (lambda net, x: net.query(x * hard_sigmoid(x)), "multiply"),
    "swish": (lambda net, x: x * torch.sigmoid(x), "multiply"), "in place": (lambda net, x: x.clone().relu_(), "relu"),
    "clamped": (lambda net, x: x.clamp(0, 6), "relu6"), "sum": (lambda net, x: sum([x, net.query(x)]), "add"),
    "a gate expanded": (lambda net, x: x * torch.sigmoid(net.query(F.adaptive_avg_pool2d(x, 1))).expand_as(x),
                        "multiply"),
    "channels last": (lambda net, x: (net.query(x).permute(0, 2, 3, 1) + x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
                      "add"),
    "rows": (lambda net, x: x.view(*x.shape[:2], -1).mean(-1)[:, :, None, None] + 0, "pool"),
    "every second pixel": (lambda net, x: net.query(x[:, :, ::2, ::2]), "max_pool"),
    "mean of means": (lambda net, x: x.mean(3).mean(2)[:, :, None, None] + 0, "adaptive_average_pool"),
    "rows that stay": (lambda net, x: torch.relu(net.query(x.mean(3, keepdim=True))).mean(2, keepdim=True),
                       "adaptive_average_pool"),
    "maximum": (lambda net, x: x.amax((2, 3), keepdim=True), "adaptive_max_pool"),
    "maximum of rows": (lambda net, x: x.flatten(2).max(2)[0][:, :, None, None] + 0, "adaptive_max_pool"),
    "zeros behind": (lambda net, x: torch.cat([x[:, :5], torch.zeros_like(x[:, 5:])], 1), "pad_channels"),
    "zeros before": (lambda net, x: net.query(torch.cat([torch.zeros(len(x), 2, 8, 8), x[:, 2:]], 1)),
                     "pad_channels"),
    "exchanged": (lambda net, x: net.query(x[:, [2, 1, 0, *range(3, x.shape[1])]]), "conv"),
    "an empty start": (lambda net, x: torch.cat([torch.zeros(0), net.query(x)], 1), "conv"),
    "no padding": (lambda net, x: F.pad(net.query(x), ()), "conv"),
    "zeros of a type": (lambda net, x: torch.cat([x[:, :5], torch.zeros(len(x), 3, 8, 8).to(x)], 1), "pad_channels"),
    "turned around": (lambda net, x: net.query(x.swapaxes(2, 3).swapaxes(3, 2)), "conv"),
    "at least zero": (lambda net, x: x.clamp_min(0), "relu"),
    "window of the whole map": (lambda net, x: F.avg_pool2d(x, x.shape[2:]), "pool")}


@pytest.mark.parametrize("name", ACCEPTED)
def test_other_ways_of_writing_are_read_exactly(name):
    middle, words = ACCEPTED[name]
    module = Refusable(middle)
    _, found = read(module, (8, 8))
    assert words in {word for n in found.network.nodes for word in (n.kind, n.activation)}
    assert proved(module, (8, 8)).max_difference <= 1e-9


# --- refusals --------------------------------------------------------------------------------------------------

def attention(net, x):
    q = net.query(x).flatten(2).transpose(1, 2)
    return F.scaled_dot_product_attention(q, q, q).transpose(1, 2).reshape(x.shape)


def no_grad(net, x):
    with torch.no_grad():
        x = net.query(x)
    return torch.relu(x)


REFUSED = {
    "attention": (attention, "scaled_dot_product_attention in the module itself .Refusable.: attention has no"),
    "softmax": (lambda net, x: x * torch.softmax(x.mean((2, 3)), 1)[:, :, None, None], "a softmax has no counterpart"),
    "group norm": (lambda net, x: net.norm(x), r"group_norm in norm \(GroupNorm\): a group norm"),
    "weights on the fly": (lambda net, x: F.conv2d(x, net.query.weight / net.query.weight.norm()), "made on the fly"),
    "control flow": (lambda net, x: x if x.sum() > 0 else -x, "depends on values of the image"),
    "used twice": (lambda net, x: net.query(net.query(x)), "query.weight: used twice"),
    "mean over channels": (lambda net, x: x * x.mean(1, keepdim=True), "a mean over the axes"),
    "an addition alone": (lambda net, x: net.query(x + 3), r"x \+ 3 alone: an addition of a constant"),
    "no hard sigmoid": (lambda net, x: F.relu6(x + 3) / 5, "no hard sigmoid"),
    "a shuffle added": (lambda net, x: x + F.channel_shuffle(x, 2) * 3, "a product with the constant 3"),
    "no_grad within": (no_grad, "torch.no_grad or autocast within its forward"),
    "dropout always": (lambda net, x: F.dropout(x, 0.5), "a dropout that acts in evaluation, too"),
    "weights cut": (lambda net, x: x * net.norm.weight.chunk(2)[0].repeat(2)[:, None, None], "a parameter is cut"),
    "weights turned": (lambda net, x: F.conv2d(x, net.query.weight.transpose(0, 1)), "made anew in every pass"),
    "a division": (lambda net, x: x / 2, "a division by 2"),
    "constants": (lambda net, x: x * 2, "a product with the constant 2"),
    "part of a map": (lambda net, x: net.query(x[:, :, 1:]), "a part of a map"),
    "mixed images": (lambda net, x: net.query(x.flip(0)), "mixes images of a batch"),
    "upsampling": (lambda net, x: F.interpolate(x, scale_factor=2.0), "an enlargement of maps"),
    "mirrors": (lambda net, x: F.pad(x, (1, 1, 1, 1), mode="reflect"), "reflect of pixels; only zeros"),
    "another gelu": (lambda net, x: F.gelu(x, approximate="tanh"), "gelu with approximate=tanh; only approximate=none"),
    "numbers of its own": (lambda net, x: x * torch.full((1, 8, 1, 1), 0.5), "made within its forward"),
    "the place of a maximum": (lambda net, x: x + x.flatten(2).max(2)[1].float()[:, :, None, None],
                               "reads where a maximum is"),
    "the larger of two": (lambda net, x: torch.max(x, net.query(x)), "a maximum of two tensors"),
    "noise": (lambda net, x: x + torch.randn_like(x), "it draws random numbers")}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_counterpart_is_refused_with_its_layer_and_the_reason(name):
    middle, words = REFUSED[name]
    with pytest.raises(Refused, match=words):
        read(Refusable(middle), (8, 8))


@pytest.mark.parametrize("module, words", [
    (several_inputs(), "several inputs"), (tuple_output(), "its output is a tuple"),
    (nn.Conv2d(3, 4, 3), "its output is of shape"), (nn.Sequential(nn.Flatten(), nn.Linear(5, 2)),
                                                     "it cannot take images"),
    (torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(192, 2))), "a ScriptModule")])
def test_what_is_no_classifier_of_images_is_refused(module, words):
    with pytest.raises(Refused, match=words):
        read(module, (8, 8))


def test_a_size_that_adaptive_pools_do_not_divide_is_refused():
    with pytest.raises(Refused, match="adaptive_avg_pool2d.*7x7 to 2x2 pixels, which do not divide"):
        read(Refusable(lambda net, x: F.adaptive_avg_pool2d(x, 2)), (7, 7))


class Odd(nn.Module):
    """x plus its channels shuffled; and grouped convolutions that divide channels differently."""

    def __init__(self, groups):
        super().__init__()
        self.conv, self.classes = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)
        self.one, self.two = (nn.Conv2d(8, 8, 3, padding=1, groups=n) for n in groups or (1, 1))
        self.groups = groups

    def forward(self, x):
        x = torch.relu(self.conv(x))
        x = self.two(torch.relu(self.one(x))) if self.groups else x + F.channel_shuffle(x, 2)
        return self.classes(torch.relu(x).mean((2, 3)))


def test_a_map_that_is_added_to_itself_shuffled_is_refused():
    with pytest.raises(Refused, match="its operands have their channels in different orders"):
        proved(Odd(()), (8, 8))


@pytest.mark.parametrize("groups", [(4, 2), (2, 4)])
def test_groups_that_do_not_fit_each_other_are_refused(groups):
    with pytest.raises((UserError, Refused), match="divide the same channels differently|cannot be described"):
        proved(Odd(groups), (8, 8))


def test_types_and_constants_within_forward_are_said():
    with pytest.raises(UserError, match="in float64, in which imports are proved"):
        proved(Refusable(lambda net, x: net.query(x.float())), (8, 8))
    constant = torch.rand(8, 1, 1)
    with pytest.raises((UserError, Refused), match="not in the module's state dict|constant"):
        proved(Refusable(lambda net, x: x * constant), (8, 8))


class Asserts(CifarNet):
    """What it asserts, as users do."""

    def __init__(self, holds):
        super().__init__("B")
        self.holds = holds

    def forward(self, x):
        assert self.holds(x), "images of 16 pixels in float32"
        return super().forward(x)


def test_what_a_module_asserts_of_its_images_is_no_traceback(monkeypatch):
    monkeypatch.setattr(proof, "MOST_MACS", 1)  # so that parts of the images measure its batch norms
    proved(Asserts(lambda x: x.shape[-1] == 16), (16, 16))
    with pytest.raises(UserError, match="in float64, in which imports are proved .*images of 16 pixels in float32"):
        proved(Asserts(lambda x: x.dtype != torch.float64), (16, 16))


class Skip(nn.Module):
    """Stochastic depth, as users write it."""

    def forward(self, x):
        return x * (torch.rand(len(x), 1, 1, 1) > 0.5) if self.training else x


def test_what_acts_in_training_alone_is_said():
    module = nn.Sequential(nn.Conv2d(3, 4, 1), Skip(), nn.Dropout2d(0.2), nn.Dropout(0.1), nn.Identity(), nn.ReLU(),
                           nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    assert read(module)[0].lost == ("1 (Skip)", "2 (a dropout of whole channels)")
    assert read(CifarNet("A"))[0].lost == ()


class Alone(CifarNet):
    def forward(self, x):
        logits = super().forward(x)
        return torch.relu(logits) if len(x) == 1 else logits


@pytest.mark.parametrize("dead", [False, True])
def test_a_module_that_treats_one_image_otherwise_is_seen(dead):
    module = Alone("B")
    if dead:
        nn.init.zeros_(module.stem.weight)  # the given weights prove nothing
    with pytest.raises(UserError, match="the imported network's outputs differ from the module's"):
        proved(module)


def test_types_within_forward_are_said_in_one_line():
    module = nn.Sequential(CifarNet("B"), Typed())
    with pytest.raises(UserError, match="its outputs are torch.float32.*leave types and batch sizes out of") as caught:
        proved(module)
    assert len(str(caught.value).splitlines()) == 1


class Mixed(nn.Module):
    """A vector of a pool, and of a linear layer behind it, side by side."""

    def __init__(self):
        super().__init__()
        self.conv, self.more, self.classes = nn.Conv2d(3, 8, 3), nn.Linear(8, 6), nn.Linear(22, 5)

    def forward(self, x):
        x = torch.relu(self.conv(x))
        mean = x.mean((2, 3))
        return self.classes(torch.cat([mean, torch.relu(self.more(mean)), x.amax((2, 3))], 1))


def test_vectors_of_pools_and_of_linear_layers_are_joined():
    found = proved(Mixed(), (8, 8))
    assert found.max_difference <= 1e-9 and found.sliced_vs_zeroed <= 1e-9


class Typed(nn.Module):
    def forward(self, x):
        return x.float()


def test_layer_norm_locks_its_groups_by_name():
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 6, 3), nn.LayerNorm(6)
            self.up, self.down, self.classes = nn.Linear(6, 9), nn.Linear(9, 6), nn.Linear(6, 3)

        def forward(self, x):
            x = self.conv(x)
            y = self.down(F.gelu(self.up(self.norm(x.permute(0, 2, 3, 1))))).permute(0, 3, 1, 2)
            return self.classes((x + y).mean((2, 3)))

    module = Normed()
    _, found = read(module, (8, 8))
    assert found.reasons["conv"] == "a layer norm needs all of its channels"
    assert [g.name for g in found.network.groups if g.prunable] == ["up"]
    assert proved(Normed(), (8, 8)).max_difference <= 1e-9


def test_a_shuffle_costs_nothing_where_its_readers_can_take_their_weights_in_another_order():
    class Shuffled(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 6, 3), nn.Conv2d(3, 6, 3)
            self.next, self.classes = nn.Conv2d(12, 5, 3), nn.Linear(5, 3)

        def forward(self, x):
            return self.classes(torch.relu(self.next(F.channel_shuffle(torch.cat([self.one(x), self.two(x)], 1), 2)))
                                .mean((2, 3)))

    _, found = read(Shuffled(), (8, 8))
    assert "shuffle" not in {n.kind for n in found.network.nodes} and list(found.orders) == ["next.weight"]
    assert {g.name: g.width for g in found.network.groups if g.prunable} == {"one": 6, "two": 6, "next": 5}
    result = proved(Shuffled(), (8, 8))
    assert result.max_difference <= 1e-9 and not math.isnan(result.sliced_vs_zeroed)
