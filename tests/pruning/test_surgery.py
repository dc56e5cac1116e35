"""Law 1: pruning channels equals zeroing them after the batch norm and ReLU that follow them in the wide network."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model import surgery
from model.torch_net import TorchNet
from tests.helpers import NETWORKS, lively, normalised_images

GROUPS = [(name, g.name) for name, n in NETWORKS.items() for g in n.groups if g.prunable]


class Zeroed(TorchNet):
    """A network whose channels outside ``keep`` are zero wherever they come out of a layer."""

    keep = {}

    def _run(self, layer, inputs):
        x = super()._run(layer, inputs)
        mask = torch.zeros(x.shape[1])
        mask[surgery.channel_index(self.network.tensors[layer.node.name].channels, self.keep, self.widths)] = 1
        return x * mask.view(1, -1, *[1] * (x.dim() - 2))


@pytest.mark.parametrize("name, group", GROUPS)
@given(data=st.data())
def test_pruning_is_zeroing(name, group, data):
    network = NETWORKS[name]
    wide = lively(Zeroed(network, network.full_widths))
    size = network.full_widths[group]
    keep = data.draw(st.sets(st.integers(0, size - 1), min_size=1, max_size=size), label="keep")
    keep = torch.tensor(sorted(keep))
    narrow = surgery.slice_channels(wide, {group: keep}).eval()
    assert narrow.widths[group] == len(keep)
    wide.keep = {group: keep}
    with torch.no_grad():
        torch.testing.assert_close(narrow(normalised_images(network)), wide(normalised_images(network)), rtol=1e-4,
                                   atol=1e-4)


@given(data=st.data())
def test_pruning_several_groups_at_once_is_pruning_one_after_the_other(data):
    network = NETWORKS["res-16-0.5"]
    model = lively(TorchNet(network, network.full_widths))
    groups = [g for g in network.groups if g.prunable]
    keep = {g.name: torch.tensor(sorted(data.draw(st.sets(st.integers(0, g.width - 1), min_size=1))))
            for g in data.draw(st.lists(st.sampled_from(groups), min_size=2, max_size=4, unique=True))}
    together, stepwise = surgery.slice_channels(model, keep), model
    for group, index in keep.items():
        stepwise = surgery.slice_channels(stepwise, {group: index})
    assert together.widths == stepwise.widths
    assert all(torch.equal(a, b) for a, b in zip(together.state_dict().values(), stepwise.state_dict().values()))


def takes_its_addition_along(network, group):
    """Where the operand that stays cannot be negative, or the addition is transparent."""
    left = {layer.node.name for layer in network.layers({**network.full_widths, group: 0})}
    return any(node.kind == "add" and node.name not in left for node in network.nodes)


@pytest.mark.parametrize("name, group", [(n, g) for n, g in GROUPS if NETWORKS[n].group[g].removable
                                         and takes_its_addition_along(NETWORKS[n], g)])
def test_a_removed_branch_leaves_the_other_operand(name, group):
    network = NETWORKS[name]
    model = lively(TorchNet(network, network.full_widths))
    without = surgery.slice_channels(model, {group: torch.empty(0, dtype=torch.long)}).eval()
    gone = {a.node.name for a in model.layers} - {a.node.name for a in without.layers}
    join = next(a for a in model.layers if a.node.kind == "add" and a.node.name in gone)
    stays = next(n for n in join.inputs if n not in gone)

    class Bypassed(TorchNet):
        def _run(self, layer, inputs):
            if layer.node.name == join.node.name:
                return inputs[join.inputs.index(stays)]
            return super()._run(layer, inputs)

    expected = Bypassed(network, network.full_widths).eval()
    expected.load_state_dict(model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(without(normalised_images(network)), expected(normalised_images(network)))


def test_the_given_network_is_left_alone():
    network = NETWORKS["res-10-1"]
    model = lively(TorchNet(network, network.full_widths))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    surgery.slice_channels(model, {"Conv_0": torch.tensor([1, 5])})
    assert model.widths == network.full_widths
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("keep, message", [({"Conv_9": [0]}, "Conv_9: not a group"), ({"Conv_0": [0, 16]}, "0..15"),
                                           ({"Conv_0": [-1]}, "0..15"), ({"Conv_0": [3, 3]}, "different channels"),
                                           ({"Conv_0": []}, "Conv_0: expected 1 to 16")])
def test_impossible_surgery_is_refused_by_name(keep, message):
    network = NETWORKS["res-10-1"]
    model = TorchNet(network, network.full_widths)
    with pytest.raises(ValueError, match=message):
        surgery.slice_channels(model, {k: torch.tensor(v, dtype=torch.long) for k, v in keep.items()})
