"""One step of SGD is the formula, with a teacher too; on a GPU the captured graph computes the same."""

import copy

import pytest
import torch
from torch import nn

from model.torch_net import TorchNet
from tests.helpers import NETWORKS, lively, normalised_images
from utils.learning import distillation, training
from utils.learning.device import Device
from utils.learning.distillation import Teacher
from utils.learning.settings import Recipe
from utils.learning.sgd_step import WARM_UP, SgdStep

RECIPE = Recipe(0.1, 0.9, 1e-2, 4)


def small(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 4))


def batch(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, 3, 2, 2, generator=generator), torch.arange(8) % 4


@pytest.mark.parametrize("teacher", [None, Teacher(small(5), 4.0, 0.9)])
def test_steps_are_momentum_and_weight_decay_by_the_formula(teacher):
    """torch's optimizer is Nesterov or plain as training.sgd asks for: both sides take it from there."""
    model = small()
    optimizer = training.sgd(model, RECIPE)
    nesterov = optimizer.param_groups[0]["nesterov"]
    step, weights, speed = SgdStep(model, optimizer, Device(), teacher), copy.deepcopy(model), None
    for number in range(3):
        images, labels = batch(number)
        loss = distillation.loss(weights(images), images, labels, teacher)
        gradients = torch.autograd.grad(loss, list(weights.parameters()))
        found = step(images, labels)
        assert found.shape == () and not found.requires_grad and torch.allclose(found, loss.detach())
        with torch.no_grad():
            decayed = [g + 1e-2 * p for g, p in zip(gradients, weights.parameters())]
            speed = decayed if speed is None else [0.9 * v + g for v, g in zip(speed, decayed)]
            for p, g, v in zip(weights.parameters(), decayed, speed):
                p -= 0.1 * (g + 0.9 * v if nesterov else v)
        for mine, theirs in zip(weights.parameters(), model.parameters()):
            assert torch.allclose(mine, theirs, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here: CUDA graphs are not tested")
def test_a_captured_step_computes_what_an_eager_one_does():
    network = NETWORKS["depthwise"]
    model = lively(TorchNet(network, network.full_widths)).train().to("cuda")
    models = [model, copy.deepcopy(model)]
    images, labels = normalised_images(network, 8).cuda(), (torch.arange(8) % 4).cuda()
    optimizers = [training.sgd(model, RECIPE) for model in models]
    captured = SgdStep(models[0], optimizers[0], Device("cuda"))
    eager = SgdStep(models[1], optimizers[1], Device("cuda"))
    eager._warm = None
    for number in range(WARM_UP + 3):
        one, two = (step(images + number, labels).item() for step in (captured, eager))
        assert one == pytest.approx(two, rel=1e-3)
    assert captured._graph is not None and eager._graph is None
