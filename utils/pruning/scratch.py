"""Judge networks by how fast they learn from scratch: by their mean training loss in the last of a few epochs.

A network is trained as ``train.py --lr_type=cosine`` trains it with the same seed. Its training loss is less noisy than
its error on held-out images, and tells more of the error after a whole training (training speed estimation, arXiv
2006.04492, section 3).
"""

import math
from dataclasses import dataclass
from typing import Any, Optional

import torch

from model.network import Network, Widths
from model.torch_net import TorchNet
from utils.learning import training
from utils.learning.device import Device
from utils.learning.settings import Recipe, Schedule
from utils.pruning.candidates import Workshop, copied

Progress = dict[str, Any]  # of a lesson: "losses" of the epochs that are done, "model", "optimizer"


@dataclass(frozen=True)
class Lesson:
    """A network to be trained from scratch; recipe, epochs: how."""

    network: Network
    widths: Widths
    recipe: Recipe
    epochs: int
    until: int  # the epoch after which the lesson ends, at most ``epochs``; it may go on later
    progress: Optional[Progress] = None  # of the same lesson, where it goes on


@dataclass(frozen=True)
class Learned:
    """What became of a lesson."""

    loss: float  # mean of the last epoch; inf where it is no number
    progress: Optional[Progress]  # None where the lesson cannot go on


def taught(lesson: Lesson, source: training.BatchSource, device: Device,
           seed: int) -> tuple[TorchNet, torch.optim.Optimizer, list[float]]:
    """The network, trained on the images of ``source``, its optimizer, and the mean training loss of every epoch.

    The training ends with the first loss that is no number.
    """
    torch.manual_seed(seed)
    model = device.place(TorchNet(lesson.network, lesson.widths))
    schedule, optimizer = Schedule(lesson.epochs, "cosine", (), 1.0), training.sgd(model, lesson.recipe)
    losses: list[float] = []
    if lesson.progress is not None:
        model.load_state_dict(lesson.progress["model"])
        optimizer.load_state_dict(lesson.progress["optimizer"])
        losses += lesson.progress["losses"]
    for epoch in range(len(losses), lesson.until):
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate(lesson.recipe.learning_rate, epoch)
        losses.append(training.fit(model, optimizer, source.epoch(seed, epoch), device))
        if not math.isfinite(losses[-1]):
            break
    return model, optimizer, losses


def learned(workshop: Workshop, lesson: Lesson) -> Learned:
    """The last loss, and what is needed to go on. The device may run out of memory."""
    model, optimizer, losses = taught(lesson, workshop.source, workshop.device, workshop.seed)
    if not math.isfinite(losses[-1]):
        return Learned(math.inf, None)
    going_on = {"losses": losses, "model": copied(model.state_dict()), "optimizer": copied(optimizer.state_dict())}
    return Learned(losses[-1], going_on if lesson.until < lesson.epochs else None)
