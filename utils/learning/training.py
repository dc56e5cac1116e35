"""Training loops as plain functions: batches, one pass of SGD, batch norms measured anew, error on images."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Callable, Optional

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.torch_net import BatchNorm
from utils.common.errors import UserError
from utils.common.progress import progress
from utils.learning.data import Draws, Images, Normalisation, augment, draw
from utils.learning.device import Device
from utils.learning.distillation import Teacher
from utils.learning.settings import Recipe
from utils.learning.sgd_step import SgdStep

EVAL_BATCH = 500  # images per forward pass when judging

Batch = tuple[Tensor, Tensor]  # normalised images [N, C, H, W] and labels [N], on the device


def sgd(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=recipe.learning_rate, momentum=recipe.momentum,
                           weight_decay=recipe.weight_decay, fused=True)


@dataclass(frozen=True)
class BatchSource:
    """Augmented, normalised batches of the training images, reproducible from the numbers in ``seeds``.

    A generator on the CPU draws all random numbers of a pass before it begins, and they move to the images' device at
    once. The device then makes the batches without waiting. Every batch also seeds torch's global generators, which
    dropout draws from.
    """

    images: Images  # on the device
    normalisation: Normalisation
    flip: bool
    batch_size: int

    def epoch(self, *seeds: int) -> Iterator[Batch]:
        """One pass in random order: every image once. The last batch may be smaller; a single image is skipped."""
        order, draws = self._draw(seeds)
        for start in range(0, len(order), self.batch_size):
            chosen = slice(start, start + self.batch_size)
            if len(order[chosen]) > 1:  # batch norm has no variance over one image of one pixel
                _seed_dropout((*seeds, start))
                yield self._batch(order, draws, chosen)

    def batches(self, first: int, last: int, *seeds: int) -> Iterator[Batch]:
        """The full batches number ``first`` to ``last`` - 1 of an endless series, pass after pass over the images."""
        size = min(self.batch_size, len(self.images))
        drawn = None
        for number in range(first, last):
            turn, place = divmod(number, len(self.images) // size)
            if drawn is None or place == 0:
                drawn = self._draw((*seeds, turn))
            _seed_dropout((*seeds, number))
            yield self._batch(*drawn, slice(place * size, (place + 1) * size))

    def _draw(self, seeds: Sequence[int]) -> tuple[Tensor, Draws]:
        """The order of the images, and how each is to be augmented, in this order."""
        generator = seeded(seeds)
        order = torch.randperm(len(self.images), generator=generator)
        return self._move(order), Draws(*map(self._move, draw(len(order), self.flip, generator)))

    @cached_property
    def _normalise(self) -> Callable[[Tensor], Tensor]:
        return self.normalisation.on(self.images.pixels.device)

    def _move(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.images.labels.device, non_blocking=True)

    def _batch(self, order: Tensor, draws: Draws, chosen: slice) -> Batch:
        images = self.images[order[chosen]]
        return self._normalise(augment(images.pixels, Draws(*(d[chosen] for d in draws)))), images.labels


def seeded(seeds: Sequence[int]) -> torch.Generator:
    """A generator seeded from several numbers; sequences of one length differ unless they are equal."""
    return torch.Generator().manual_seed(_mixed(seeds))


def _seed_dropout(seeds: Sequence[int]) -> None:
    """Seed the global generators that this process uses."""
    torch.default_generator.manual_seed(_mixed(seeds))
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(_mixed(seeds))


def _mixed(seeds: Sequence[int]) -> int:
    state = np.random.SeedSequence(list(seeds)).generate_state(2)
    return int(state[0]) << 31 | int(state[1]) >> 1


def fit(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[Batch], device: Device,
        teacher: Optional[Teacher] = None) -> float:
    """One pass of SGD over ``batches`` of (images, labels); returns the mean loss per batch.

    NaN is returned, not raised: a search drops the candidate, a training stops. The loss is summed on the device.
    """
    model.train()
    step, total, count = SgdStep(model, optimizer, device, teacher), 0.0, 0
    for images, labels in batches:
        total, count = total + step(images, labels), count + 1
    return float(total) / max(count, 1)


def train_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, source: BatchSource, device: Device,
                rate: float, seeds: Sequence[int], title: str, teacher: Optional[Teacher] = None) -> float:
    """One pass over the training images at one learning rate, with a bar; returns the mean loss.

    Raises UserError when the loss is no longer finite.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate
    steps = -(-len(source.images) // source.batch_size)
    loss = fit(model, optimizer, progress(source.epoch(*seeds), title, steps), device, teacher)
    if not math.isfinite(loss):
        raise UserError(f"{title}: the loss is no longer a number; try a lower --learning_rate. "
                        "What was finished is kept")
    return loss


def without_dropout(model: nn.Module) -> None:
    """Turn dropout off, whatever mode the other modules are in."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()


def measure_anew(norm: BatchNorm) -> None:
    """Reset a batch norm's statistics, so that it measures them anew as the mean over batches of equal weight."""
    norm.train()
    norm.reset_running_stats()
    norm.momentum = None


@torch.inference_mode()
def recalibrate(model: nn.Module, batches: Iterable[Batch], device: Device) -> None:
    """Measure the batch norms' statistics anew over ``batches`` (EagleEye, arXiv 2007.02491)."""
    norms = [m for m in model.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]
    momenta = [norm.momentum for norm in norms]
    model.train()
    without_dropout(model)
    for norm in norms:
        measure_anew(norm)
    for images, _ in batches:
        with device.autocast():
            model(images)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum


def wrong_and_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Of logits [N, classes] and labels [N]: how many images have another top class, and their summed cross entropy."""
    return (logits.argmax(1) != labels).sum(), F.cross_entropy(logits, labels, reduction="sum")


@torch.inference_mode()
def judge(model: nn.Module, images: Images, normalisation: Normalisation, device: Device) -> tuple[float, float]:
    """(images whose top class is wrong, %; mean cross entropy); ``images`` on the model's device."""
    model.eval()
    normalise = normalisation.on(images.labels.device)
    wrong = torch.zeros((), dtype=torch.int64, device=images.labels.device)
    loss = torch.zeros((), dtype=torch.float64, device=images.labels.device)
    for i in range(0, len(images), EVAL_BATCH):
        with device.autocast():
            logits = model(normalise(images.pixels[i:i + EVAL_BATCH]))
        more_wrong, more_loss = wrong_and_loss(logits.float(), images.labels[i:i + EVAL_BATCH])
        wrong += more_wrong
        loss += more_loss
    return 100.0 * int(wrong) / len(images), float(loss) / len(images)


@torch.inference_mode()
def labelled_by(model: nn.Module, images: Images, normalisation: Normalisation, device: Device) -> Images:
    """The images with the model's top classes as their labels; on the model's device."""
    model.eval()
    normalise, found = normalisation.on(images.labels.device), []
    for part in images.pixels.split(EVAL_BATCH):
        with device.autocast():
            found.append(model(normalise(part)).argmax(1))
    return Images(images.pixels, torch.cat(found))


def error_pct(model: nn.Module, images: Images, normalisation: Normalisation, device: Device) -> float:
    """Percentage of images whose top class is wrong; ``images`` on the model's device."""
    return judge(model, images, normalisation, device)[0]
