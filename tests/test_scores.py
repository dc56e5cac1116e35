"""Channel scores: what they are sums of, and that Taylor's and Fisher's tell what zeroing a channel does to the loss."""

import pytest
import torch
from torch.nn import functional as F

from model.torch_net import TorchNet
from tests.conftest import NETWORKS
from tests.test_models import lively
from tests.test_surgery import Zeroed, images
from utils import scores, surgery
from utils.errors import UserError


def labelled(network, count):
    x = images(network, count)
    return x, torch.arange(count) % network.full_widths[network.nodes[-1].group]


@pytest.mark.parametrize("name", sorted(NETWORKS))
@pytest.mark.parametrize("method", scores.METHODS)
def test_every_prunable_channel_gets_a_score_and_the_model_stays_as_it_is(name, method):
    network = NETWORKS[name]
    model = lively(TorchNet(network, network.full_widths))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = scores.channel_scores(model, method, [labelled(network, 6)], torch.Generator().manual_seed(0))
    assert {g: tuple(s.shape) for g, s in found.items()} == {g.name: (g.width,) for g in network.groups if g.prunable}
    assert all(torch.isfinite(s).all() and (s >= 0).all() and len(s.unique()) > 1 for s in found.values())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_taylor_is_the_slope_of_the_loss_towards_zero(name):
    """Against finite differences: the channel's gate a little below 1, wherever the channel is zeroed when it goes."""
    network = NETWORKS[name]
    model = lively(Gated(network, network.full_widths)).double()
    x, y = labelled(network, 5)
    found = scores.channel_scores(model, "taylor", [(x.double(), y)], torch.Generator())
    fisher = scores.channel_scores(model, "fisher", [(x.double(), y)], torch.Generator())
    for group in (g.name for g in network.groups if g.prunable):
        for channel in (0, model.widths[group] - 1):
            with torch.no_grad():
                model.gate = (group, channel, 1 + 1e-6)
                more = F.cross_entropy(model(x.double()), y, reduction="none")
                model.gate = (group, channel, 1 - 1e-6)
                less = F.cross_entropy(model(x.double()), y, reduction="none")
                model.gate = None
            slopes = (more - less) / 2e-6
            assert float(found[group][channel]) == pytest.approx(float(slopes.abs().mean()), rel=1e-3, abs=1e-7)
            assert float(fisher[group][channel]) == pytest.approx(float(slopes.square().mean()) / 2, rel=1e-3, abs=1e-9)


class Gated(Zeroed):
    """One channel of a group multiplied where law 1 zeroes it."""

    gate = None

    def _run(self, layer, inputs):
        x = super()._run(layer, inputs)
        if self.gate and layer.node.group == self.gate[0] and self._read_by_filters(layer.node.name):
            factor = torch.ones(x.shape[1], dtype=x.dtype)
            factor[self.gate[1]] = self.gate[2]
            x = x * factor.view(1, -1, *[1] * (x.dim() - 2))
        return x


def test_scores_of_a_network_with_removed_blocks():
    network = NETWORKS["wideresnet-16-0.5"]
    model = TorchNet(network, dict(network.full_widths, Conv_1_0_1=0, Conv_2_1_1=0))
    for method in scores.METHODS:
        found = scores.channel_scores(model, method, [labelled(network, 4)], torch.Generator().manual_seed(0))
        assert "Conv_1_0_1" not in found and len(found["Conv_1_0_2"]) == 8, method


def test_without_batch_norm_there_are_no_scales():
    from model.network import Group, Input, Network, Node
    network = Network({}, (Input("image", "image", 4),), (Group("image", 3, prunable=False), Group("a", 2), Group("b", 2, prunable=False)),
                      (Node("A", "conv", ("image",), "a"), Node("P", "pool", ("A",), "a"), Node("B", "linear", ("P",), "b")))
    with pytest.raises(UserError, match="no batch norm follows a"):
        scores.channel_scores(TorchNet(network, network.full_widths), "bn", [], torch.Generator())


def test_scores_are_the_mean_norm_over_all_writers_of_a_stream():
    network = NETWORKS["wideresnet-16-0.5"]
    model = TorchNet(network, network.full_widths)
    with torch.no_grad():
        for name, value in (("Conv_1_0_2", 1.0), ("Conv_1_1_2", 2.0), ("Skip_1", 3.0)):
            getattr(model, name).weight.fill_(0)
            getattr(model, name).weight[2, 0, 0, 0] = value
        model.Skip_1.weight[5, 0, 0, 0] = -9.0
    found = scores.filter_norms(model, "Conv_1_0_2")
    torch.testing.assert_close(found, torch.tensor([0, 0, 2.0, 0, 0, 3.0, 0, 0]))
    assert surgery.best_channels(found, 3).tolist() == [0, 2, 5]


def test_scores_leave_out_writers_that_are_gone():
    network = NETWORKS["wideresnet-16-0.5"]
    model = TorchNet(network, dict(network.full_widths, Conv_1_0_1=0, Conv_1_1_1=0))
    expected = model.Skip_1.weight.detach().flatten(1).norm(dim=1)
    torch.testing.assert_close(scores.filter_norms(model, "Conv_1_0_2"), expected)
