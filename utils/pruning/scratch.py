"""Judge networks by how fast they learn from scratch: by their mean training loss in the last of a few epochs.

A network is trained as ``train.py --lr_type=cosine`` trains it with the same seed. Its training loss is less noisy than
its error on held-out images, and tells more of the error after a whole training (training speed estimation, arXiv
2006.04492, section 3).
"""

import math
from dataclasses import dataclass, replace

import torch

from model.network import Network, Widths
from model.torch_net import TorchNet
from utils.learning import training
from utils.learning.device import Device
from utils.learning.settings import Recipe, Schedule
from utils.pruning.candidates import Workshop


@dataclass(frozen=True)
class Lesson:
    """A network to be trained from scratch; recipe, epochs: how."""

    network: Network
    widths: Widths
    recipe: Recipe
    epochs: int
    part: float = 1.0  # of the training images


def taught(lesson: Lesson, source: training.BatchSource, device: Device,
           seed: int) -> tuple[TorchNet, torch.optim.Optimizer, list[float]]:
    """The network, trained on the images of ``source``, its optimizer, and the mean training loss of every epoch.

    The training ends with the first loss that is no number.
    """
    torch.manual_seed(seed)
    model = device.place(TorchNet(lesson.network, lesson.widths))
    if lesson.part < 1:
        order = torch.randperm(len(source.images), generator=training.seeded((seed,)))
        source = replace(source, images=source.images[order[:max(round(lesson.part * len(order)), 2)]])
    schedule, optimizer = Schedule(lesson.epochs, "cosine", (), 1.0), training.sgd(model, lesson.recipe)
    losses: list[float] = []
    for epoch in range(lesson.epochs):
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate(lesson.recipe.learning_rate, epoch)
        losses.append(training.fit(model, optimizer, source.epoch(seed, epoch), device))
        if not math.isfinite(losses[-1]):
            break
    return model, optimizer, losses


def learned(workshop: Workshop, lesson: Lesson) -> float:
    """The mean training loss of the last epoch; inf where it is no number. The device may run out of memory."""
    _, _, losses = taught(lesson, workshop.source, workshop.device, workshop.seed)
    return losses[-1] if math.isfinite(losses[-1]) else math.inf
