"""Loops that are functions of what they use: learning rate, one pass of SGD, error on a set of images."""

import math
from dataclasses import dataclass
from typing import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.data import Images, Normalisation, augment
from utils.errors import UserError
from utils.progress import progress

EVAL_BATCH = 500  # images per forward pass when judging


def learning_rate(epoch: int, *, base: float, lr_type: str, epochs: int, epoch_step: Sequence[int],
                  decay_ratio: float) -> float:
    """The rate of an epoch, counted from 0: ``multistep`` decays at every epoch in epoch_step, ``cosine`` to 0."""
    if lr_type == "cosine":
        return 0.5 * base * (1 + math.cos(math.pi * epoch / epochs))
    return base * decay_ratio ** sum(epoch >= step for step in epoch_step)


def sgd(model: nn.Module, lr: float, momentum: float, weight_decay: float) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay, foreach=True)


@dataclass(frozen=True)
class BatchSource:
    """Augmented, normalised batches of the training images, reproducible from the numbers in ``seeds``."""

    images: Images  # on the device
    normalisation: Normalisation
    flip: bool
    batch_size: int

    def epoch(self, *seeds: int) -> Iterator[tuple]:
        """One pass in random order: every image once, the last batch being smaller (but never of one image)."""
        generator = _generator(seeds)
        order = torch.randperm(len(self.images), generator=generator)
        for index in order.split(self.batch_size):
            if len(index) > 1:  # batch norm has no variance over one image of one pixel
                yield self._batch(index, generator)

    def batches(self, count: int, *seeds: int) -> Iterator[tuple]:
        """``count`` full batches, passing over the images as often as needed."""
        generator = _generator(seeds)
        size = min(self.batch_size, len(self.images))
        order = torch.empty(0, dtype=torch.long)
        for _ in range(count):
            if len(order) < size:
                order = torch.randperm(len(self.images), generator=generator)
            index, order = order[:size], order[size:]
            yield self._batch(index, generator)

    def _batch(self, index: Tensor, generator: torch.Generator):
        chosen = self.images[index.to(self.images.labels.device)]
        return self.normalisation(augment(chosen.pixels, self.flip, generator)), chosen.labels


def _generator(seeds: Sequence[int]) -> torch.Generator:
    """A generator seeded from several numbers; sequences of one length differ unless they are equal."""
    state = np.random.SeedSequence(list(seeds)).generate_state(2)
    return torch.Generator().manual_seed(int(state[0]) << 31 | int(state[1]) >> 1)


def fit(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable) -> float:
    """One pass of SGD with cross entropy over ``batches`` of (images, labels); returns the mean loss per batch.

    NaN is returned, not raised: a search drops the candidate, a training stops.
    """
    model.train()
    total, count = 0.0, 0
    for images, labels in batches:
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total, count = total + loss.detach(), count + 1
    return float(total) / max(count, 1)


def train_epoch(model, optimizer, source: BatchSource, rate: float, seeds: Sequence[int], title: str) -> float:
    """One pass over the training images at one learning rate, with a bar; returns the mean loss.

    Raises UserError when the loss is no longer finite.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate
    steps = -(-len(source.images) // source.batch_size)
    loss = fit(model, optimizer, progress(source.epoch(*seeds), title, steps))
    if not math.isfinite(loss):
        raise UserError(f"{title}: the loss is no longer a number; try a lower --learning_rate. "
                        "What was finished is kept")
    return loss


@torch.inference_mode()
def error_pct(model: nn.Module, images: Images, normalisation: Normalisation) -> float:
    """Percentage of images whose top class is wrong; ``images`` on the model's device."""
    model.eval()
    wrong = sum((model(normalisation(images.pixels[i:i + EVAL_BATCH])).argmax(1) != images.labels[i:i + EVAL_BATCH])
                .sum() for i in range(0, len(images), EVAL_BATCH))
    return 100.0 * int(wrong) / len(images)


def pick_device(name: str) -> torch.device:
    """``auto`` is a GPU where there is one. Raises UserError for a device that torch cannot use here."""
    torch.backends.cudnn.deterministic = True  # one seed, one result
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device={name}: torch cannot use it here ({str(error).splitlines()[0]}); "
                        "try --device=cpu") from error
    return device


def on_device(model: nn.Module, device: torch.device) -> nn.Module:
    """The model on the device, its tensors laid out channels-last, which convolutions there are fastest with."""
    return model.to(device, memory_format=torch.channels_last)
