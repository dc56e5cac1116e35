"""Settings of a training, as plain values: the scripts make them from their flags before they load torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional


@dataclass(frozen=True)
class Recipe:
    """Stochastic gradient descent."""

    learning_rate: float  # of the first epoch, where there is a schedule
    momentum: float
    weight_decay: float  # L2 penalty
    batch_size: int  # images


@dataclass(frozen=True)
class Schedule:
    """How the learning rate goes on, epoch by epoch."""

    epochs: int
    lr_type: str  # "multistep" or "cosine"
    epoch_step: tuple[int, ...]  # multistep: the epochs at which the rate is multiplied by decay_ratio
    decay_ratio: float

    def learning_rate(self, base: float, epoch: int) -> float:
        """The rate of an epoch, counted from 0; ``base``: that of the first one."""
        if self.lr_type == "cosine":
            return 0.5 * base * (1 + math.cos(math.pi * epoch / self.epochs))
        return base * self.decay_ratio ** sum(epoch >= step for step in self.epoch_step)


@dataclass(frozen=True)
class Data:
    """Which images."""

    dataset: str  # "cifar10", "digits", or "random": noise, for an imported network without data
    data_loc: str  # folder
    workers: int  # threads that read them
    holdout_prop: float = 0.0  # part of the training images that is held out; 0: none


@dataclass(frozen=True)
class Compute:
    """What computes: as asked for, or as ``device.settled`` chose."""

    device: str  # "auto", "cpu", "cuda", "cuda:1", ...
    precision: str  # "auto", "fp32", "bf16"
    threads: Optional[int]  # of a process; None: what suits the machine
    seed: int

    def as_begun(self, flags: Mapping[str, Any]) -> "Compute":
        """A copy with the precision and threads that an unfinished run began with, unless others are asked for."""
        precision, threads = flags.get("precision"), flags.get("threads")
        known = self.precision == "auto" and precision in ("fp32", "bf16")
        sound = isinstance(threads, int) and not isinstance(threads, bool) and threads > 0
        return replace(self, precision=precision if known else self.precision,
                       threads=self.threads or (threads if sound else None))


@dataclass(frozen=True)
class Teaching:
    """Learning from another network's logits too (knowledge distillation)."""

    teacher: Path  # its checkpoint
    temperature: float  # by which logits are divided
    weight: float  # part of the loss that is the teacher's; the rest is the labels'
