"""Make the candidates of a step: prune, recalibrate, fine-tune and judge them.

A candidate depends on the arguments only. It is the same in every process and in every order, and whether it is made in
one go or rung by rung.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Optional

import torch
from torch import Tensor

from model import surgery
from model.network import Network
from model.torch_net import TorchNet
from utils.learning import training
from utils.learning.data import Images
from utils.learning.device import Device
from utils.learning.settings import Recipe
from utils.pruning.scores import DATA_BATCHES, Scores, channel_scores
from utils.pruning.tail import Tail
from utils.search.halving import Rung
from utils.search.netadapt import Key

Progress = dict[str, Any]  # of a candidate: "batches" it was fine-tuned on, what changed in its "model", "optimizer"


@dataclass(frozen=True)
class Workshop:
    """What all candidates of a run have in common. The images are on the device."""

    source: training.BatchSource  # images to fine-tune on
    held_out: Images  # images to judge on, none of them in ``source``
    device: Device
    recipe: Recipe  # of all fine-tuning
    threads: int
    seed: int
    pruning_method: str = "l2"  # one of settings.SCORES

    def scores(self, model: TorchNet, step: int) -> Scores:
        """The scores of the channels that a step may remove."""
        batches = self.source.batches(0, DATA_BATCHES, self.seed, step, 0)
        return channel_scores(model, self.pruning_method, batches, training.seeded((self.seed, step)))

    def judged(self, step: int, count: Optional[int]) -> Images:
        """``count`` of the held-out images, the same for all candidates of a step; None: all."""
        if count is None or count >= len(self.held_out):
            return self.held_out
        order = torch.randperm(len(self.held_out), generator=training.seeded((self.seed, step)))
        return self.held_out[order[:count].to(self.held_out.labels.device)]

    def sample(self, step: int, count: int) -> list[Images]:
        """``count`` of the held-out images, or all where there are fewer, in random order and in batches of about the
        same size: every batch tells as much of the statistics as another. Those of ``judged``, if there are more."""
        order = torch.randperm(len(self.held_out), generator=training.seeded((self.seed, step)))
        batches = order[:count].tensor_split(math.ceil(min(count, len(order)) / training.EVAL_BATCH))
        return [self.held_out[batch.to(self.held_out.labels.device)] for batch in batches]

    def error_pct(self, model: TorchNet, images: Images) -> float:
        return self.judge(model, images)[0]

    def judge(self, model: TorchNet, images: Images) -> tuple[float, float]:
        """(error in %, loss)"""
        return training.judge(model, images, self.source.normalisation, self.device)

    def tune(self, model: TorchNet, batches: int, *seeds: int) -> bool:
        """Fine-tune in place; False if the loss is no longer finite."""
        optimizer = training.sgd(model, self.recipe)
        loss = training.fit(model, optimizer, self.source.batches(0, batches, self.seed, *seeds, 0), self.device)
        return math.isfinite(loss)

    def recalibrate(self, model: TorchNet, step: int, batches: int) -> None:
        training.recalibrate(model, self.source.batches(0, batches, self.seed, step, 0), self.device)

    def recalibrating(self, step: int, batches: int) -> Iterator[Tensor]:
        """Training images to measure batch-norm statistics on, the same for all candidates of a step."""
        return (images for images, _ in self.source.batches(0, batches, self.seed, step, 0))


@dataclass(frozen=True)
class Piece:
    """One candidate to work on: its group, the channels ``keep`` that stay, and what is done already."""

    group: str
    number: int  # of the group in its network, from 1: the seed of its batches
    keep: Tensor  # indices, ascending
    progress: Optional[Progress] = None

    @property
    def key(self) -> Key:
        return self.group, len(self.keep)


@dataclass(frozen=True)
class Order:
    """Candidates of a step to be brought to a rung."""

    step: int
    rung: Rung
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Made:
    """The result of a piece. Error and loss are NaN if the fine-tuning diverged."""

    key: Key  # the piece's
    error_pct: float
    loss: float
    progress: Progress


def number_of(network: Network, group: str) -> int:
    """The number of a group in its network, from 1."""
    return 1 + [g.name for g in network.groups].index(group)


def make_candidates(workshop: Workshop, parent: TorchNet, order: Order) -> Iterator[Made]:
    """Yield the result of every piece as soon as it is done. ``parent``, on the device, is not changed."""
    rung = order.rung
    anew = rung.recalibration or rung.own
    if anew and not rung.batches and all(p.progress is None for p in order.pieces):
        yield from _scored(workshop, parent, order)
        return
    judged = workshop.judged(order.step, rung.images)
    for piece in order.pieces:
        progress = piece.progress
        if progress is None and anew:
            progress = _recalibrated(workshop, parent, piece, order)
        yield _tuned(workshop, parent, replace(piece, progress=progress or {"batches": 0, "model": {}}), order, judged)


def in_order(parent: TorchNet, pieces: Sequence[Piece]) -> list[Piece]:
    """Sorted by the first layer that differs from the parent, so that neighbours share the most layers."""
    return sorted(pieces, key=lambda piece: _first_change(parent, piece))


def rebuilt(parent: TorchNet, piece: Piece, device: Device) -> TorchNet:
    """The candidate with its progress so far, on the device."""
    model = surgery.slice_channels(parent, {piece.group: piece.keep})
    if piece.progress is not None:
        model.load_state_dict(piece.progress["model"], strict=False)
    return device.place(model)


def _tuned(workshop: Workshop, parent: TorchNet, piece: Piece, order: Order, judged: Images) -> Made:
    """Fine-tune on the remaining batches up to the rung, and judge."""
    model, before = rebuilt(parent, piece, workshop.device), piece.progress or {"batches": 0}
    learning = Tail(model, _first_change(parent, piece)) if order.rung.frozen else model
    optimizer = training.sgd(model, workshop.recipe)
    if "optimizer" in before:
        optimizer.load_state_dict(before["optimizer"])
    batches = workshop.source.batches(before["batches"], order.rung.batches, workshop.seed, order.step, piece.number)
    loss = training.fit(learning, optimizer, batches, workshop.device)
    sound = math.isfinite(loss) and all(bool(torch.isfinite(p).all()) for p in model.parameters())
    error, mean_loss = workshop.judge(model, judged) if sound else (float("nan"), float("nan"))
    return Made(piece.key, error, mean_loss, {"batches": order.rung.batches, "model": copied(model.state_dict()),
                                              "optimizer": copied(optimizer.state_dict())})


# --- batch norm measured anew, layers shared -------------------------------------------------------------------

def _recalibrated(workshop: Workshop, parent: TorchNet, piece: Piece, order: Order) -> Progress:
    """The progress of one candidate after ``_scored``, made without the others."""
    alone = Order(order.step, Rung("alone", 0, 0, order.rung.recalibration, order.rung.own), (piece,))
    return next(_scored(workshop, parent, alone)).progress


@torch.inference_mode()
def _scored(workshop: Workshop, parent: TorchNet, order: Order) -> Iterator[Made]:
    """Measure every candidate's batch-norm statistics anew (EagleEye, arXiv 2007.02491) and judge it.

    The layers before the first pruned one are the parent's. Their activations and statistics are computed once, for all
    candidates that share them. Where the judged images are those that are measured on, they pass once, and the layers
    before the pruned one keep their statistics.
    """
    device, (measured, seen, labels) = workshop.device, _inputs(workshop, parent, order.step, order.rung)
    shared = copy.deepcopy(parent)
    here = 0
    for piece in in_order(parent, order.pieces):
        cut = _first_change(parent, piece)
        with device.autocast():
            measured, seen = _advance(shared, measured, seen, here, cut)
        here = cut
        candidate = device.place(surgery.slice_channels(shared, {piece.group: piece.keep}))
        end = len(candidate.layers)
        with device.autocast():
            logits = _logits(_advance(candidate, measured, seen, cut, end))
        yield Made(piece.key, *_judged(logits, labels),
                   {"batches": 0, "model": copied(_statistics(candidate, 0 if order.rung.own is None else cut))})


@torch.inference_mode()
def judge_parent(workshop: Workshop, parent: TorchNet, step: int, rung: Rung) -> tuple[float, float]:
    """(error in %, loss) of the parent, on the images of the rung and with the kind of statistics that candidates have.
    """
    if not rung.measures_what_it_judges:
        return workshop.judge(parent, workshop.judged(step, rung.images))
    measured, seen, labels = _inputs(workshop, parent, step, rung)
    with workshop.device.autocast():
        return _judged(_logits(_advance(copy.deepcopy(parent), measured, seen, 0, len(parent.layers))), labels)


def _inputs(workshop: Workshop, parent: TorchNet, step: int, rung: Rung) -> "tuple[Values, Values, Tensor]":
    """The images to measure statistics on and those to judge, in batches, and the labels of the latter. Where both are
    the same, none are left to judge: they pass once."""
    normalise = workshop.source.normalisation.on(workshop.held_out.labels.device)
    (image,) = parent.network.inputs
    batches = workshop.sample(step, rung.own) if rung.own else []
    if rung.measures_what_it_judges:
        return [{image.name: normalise(b.pixels)} for b in batches], [], torch.cat([b.labels for b in batches])
    own = [normalise(batch.pixels) for batch in batches]
    measured = own or workshop.recalibrating(step, rung.recalibration)
    judged = workshop.judged(step, rung.images)
    seen = judged.pixels.split(training.EVAL_BATCH) if len(judged) else ()
    return ([{image.name: x} for x in measured], [{image.name: normalise(x)} for x in seen], judged.labels)


def _statistics(model: TorchNet, first: int) -> dict[str, Tensor]:
    """What the batch norms measured in the layers from number ``first`` on, by name."""
    late = {norm for layer in model.layers[first:] for norm in model.batch_norms(layer)}
    return {f"{path}.{name}": value for path, module in model.named_modules() if module in late
            for name, value in module.named_buffers()}


Values = list[dict[str, Tensor]]  # per batch, the live tensors by name


def _advance(model: TorchNet, measured: Values, seen: Values, first: int, last: int) -> tuple[Values, Values]:
    """Run all batches through layers ``first`` to ``last`` - 1: ``measured`` sets the batch-norm statistics that
    ``seen`` is judged with."""
    for layer in model.layers[first:last]:
        for norm in model.batch_norms(layer):
            training.measure_anew(norm)
    training.without_dropout(model)
    measured = [model.advance(values, first, last) for values in measured]
    model.eval()
    return measured, [model.advance(values, first, last) for values in seen]


def _first_change(parent: TorchNet, piece: Piece) -> int:
    """The number of the first layer that the candidate does not share with its parent."""
    layers = parent.network.layers({**parent.widths, piece.group: len(piece.keep)})
    return next(i for i, (a, b) in enumerate(zip(parent.layers, layers)) if a != b)


def _logits(ends: tuple[Values, Values]) -> list[Tensor]:
    """Those of the images that are judged, in batches: the second ones, or the first where there are no others."""
    measured, seen = ends
    return [_only(out) for out in seen or measured]


def _judged(logits: Sequence[Tensor], labels: Tensor) -> tuple[float, float]:
    """(error in %, loss) of the logits of images in batches; NaN without images."""
    if not len(labels):
        return float("nan"), float("nan")
    wrong, loss = training.wrong_and_loss(torch.cat(list(logits)).double(), labels)
    return 100.0 * int(wrong) / len(labels), float(loss) / len(labels)


def _only(values: dict[str, Tensor]) -> Tensor:
    (value,) = values.values()
    return value


def copied(tree: Any) -> Any:
    """The same dicts and lists, with tensors copied to the CPU: a progress is sent to workers and stored in files."""
    if isinstance(tree, Tensor):
        return tree.detach().cpu().clone()
    if isinstance(tree, dict):
        return {key: copied(value) for key, value in tree.items()}
    return [copied(value) for value in tree] if isinstance(tree, (list, tuple)) else tree
