"""Channel scores: what they sum up, and that Taylor's and Fisher's tell what zeroing a channel does to the loss."""

import pytest
import torch
from torch.nn import functional as F

from model import surgery
from model.architectures import describe
from model.torch_net import TorchNet
from tests.helpers import NETWORKS, TORCH_NETWORKS, lively, normalised_images
from utils.comparison.jobs import parser_of
from utils.pruning import scores
from utils.pruning.settings import SCORES


def labelled(network, count):
    x = normalised_images(network, count)
    return x, torch.arange(count) % network.layers(network.full_widths)[-1].cout


@pytest.mark.parametrize("name", sorted(TORCH_NETWORKS))
@pytest.mark.parametrize("method", SCORES)
def test_every_prunable_channel_gets_a_score_and_the_model_stays_as_it_is(name, method):
    network = TORCH_NETWORKS[name]
    model = lively(TorchNet(network, network.full_widths))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = scores.channel_scores(model, method, [labelled(network, 6)], torch.Generator().manual_seed(0))
    assert {g: tuple(s.shape) for g, s in found.items()} == {g.name: (g.width,) for g in network.groups if g.prunable}
    assert all(torch.isfinite(s).all() and (s >= 0).all() and len(s.unique()) > 1 for s in found.values())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("name", [*sorted(TORCH_NETWORKS), "res-22-0.5"])
def test_taylor_and_fisher_are_slopes_of_the_loss(name):
    """Against finite differences, without a gate: the weights that every mixing filter reads the channel with, times
    1 ± a little."""
    network = TORCH_NETWORKS.get(name) or describe("res", depth=22, width=0.5)
    model = lively(TorchNet(network, network.full_widths)).double()
    x, y = labelled(network, 5)
    taylor, fisher = (scores.channel_scores(model, method, [(x.double(), y)], torch.Generator())
                      for method in ("taylor", "fisher"))
    for group in (g.name for g in network.groups if g.prunable):
        for channel in (0, model.widths[group] - 1):
            readers = list(columns(model, group, channel))
            slopes = (losses(model, x, y, readers, 1 + 1e-6) - losses(model, x, y, readers, 1 - 1e-6)) / 2e-6
            assert float(taylor[group][channel]) == pytest.approx(float(slopes.abs().mean()), rel=1e-3, abs=1e-7)
            assert float(fisher[group][channel]) == pytest.approx(float(slopes.square().mean()) / 2, rel=1e-3, abs=1e-9)


def columns(model, group, channel):
    """(module, its input channels that are the unit) for all filters that mix the channels of the group."""
    for layer in model.layers:
        channels = model.network.tensors[layer.node.inputs[0]].channels
        mixes = layer.node.kind == "linear" or layer.node.kind == "conv" and not layer.node.grouped
        if mixes and any(s.group == group for s in channels):
            others = {s.group: torch.empty(0, dtype=torch.long) for s in channels}
            unit = {**others, group: torch.tensor([channel])}
            yield getattr(model, layer.node.name), surgery.channel_index(channels, unit, model.widths)


@torch.no_grad()
def losses(model, x, y, readers, factor):
    """Every image's loss with one input channel of these filters multiplied."""
    kept = [reader.weight.clone() for reader, _ in readers]
    for reader, index in readers:
        reader.weight[:, index] *= factor
    found = F.cross_entropy(model(x.double()), y, reduction="none")
    for (reader, _), weight in zip(readers, kept):
        reader.weight.copy_(weight)
    return found


def test_scores_of_a_network_with_removed_blocks():
    network = NETWORKS["res-16-0.5"]
    model = TorchNet(network, dict(network.full_widths, Conv_1_0_1=0, Conv_2_1_1=0))
    for method in SCORES:
        found = scores.channel_scores(model, method, [labelled(network, 4)], torch.Generator().manual_seed(0))
        assert "Conv_1_0_1" not in found and len(found["Conv_1_0_2"]) == 8, method


def test_filters_without_a_batch_norm_are_scored_by_their_norm():
    """What is left of a stream whose blocks are all removed is its bare skip."""
    network = NETWORKS["res-16-0.5"]
    model = lively(TorchNet(network, dict(network.full_widths, Conv_1_0_1=0, Conv_1_1_1=0)))
    found = scores.channel_scores(model, "bn", [], torch.Generator())
    torch.testing.assert_close(found["Conv_1_0_2"], model.Skip_1.weight.detach().flatten(1).norm(dim=1))
    torch.testing.assert_close(found["Conv_0"], model.Conv_0_bn.weight.detach().abs())


def test_prune_offers_every_method():
    assert set(SCORES) == {*scores.FROM_WEIGHTS, *scores.FROM_SLOPES} and len(SCORES) == len(set(SCORES))
    (action,) = [a for a in parser_of("prune.py")._actions if a.dest == "pruning_method"]
    assert tuple(action.choices) == SCORES


def test_scores_are_the_mean_norm_over_all_writers_of_a_stream():
    network = NETWORKS["res-16-0.5"]
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
    network = NETWORKS["res-16-0.5"]
    model = TorchNet(network, dict(network.full_widths, Conv_1_0_1=0, Conv_1_1_1=0))
    expected = model.Skip_1.weight.detach().flatten(1).norm(dim=1)
    torch.testing.assert_close(scores.filter_norms(model, "Conv_1_0_2"), expected)
