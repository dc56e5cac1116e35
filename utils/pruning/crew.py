"""Make candidates in this process or in workers.

Workers receive parcels, dicts of arrays: one for the run and one for every step. A worker opens a parcel once, on its
own device, which never changes.
"""

import io
import uuid
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, Callable, Optional

import numpy as np
import torch

from model.torch_net import TorchNet
from utils.common.workers import Workers, worker_number
from utils.learning import device as devices
from utils.learning.data import Images
from utils.learning.device import Device
from utils.pruning import candidates
from utils.pruning.candidates import Made, Order, Piece, Workshop
from utils.pruning.scratch import Lesson, learned
from utils.search.halving import Rung

Parcel = dict[str, Any]
Make = Callable[[int, Rung, Sequence[Piece]], Iterator[Made]]  # (step, rung, pieces) -> their results


class Crew:
    """Makes the candidates of a run, in this process or in workers. With several GPUs, each worker has its own."""

    def __init__(self, workshop: Workshop, workers: Optional[Workers] = None):
        self.workshop, self._workers = workshop, workers
        self._parcel = _pack_workshop(workshop, workshop.device.one_each(workers.backend)) if workers else {}

    def taught(self, lessons: Sequence[Lesson]) -> Iterator[tuple[int, float]]:
        """Yield (number of a lesson, from 0; its last loss) for each when it is done, in any order."""
        numbered = list(enumerate(lessons))
        if self._workers is not None:
            yield from self._workers.results(teach_from_parcels, (self._parcel,), numbered)
            return
        for number, lesson in numbered:
            with devices.memory_errors():
                yield number, learned(self.workshop, lesson)

    def of_step(self, parent: TorchNet) -> Make:
        """A function that brings candidates of ``parent`` to a rung, and yields each when it is done, in any order."""
        workers = self._workers

        def make_here(step: int, rung: Rung, pieces: Sequence[Piece]) -> Iterator[Made]:
            with devices.memory_errors():
                yield from candidates.make_candidates(self.workshop, parent, Order(step, rung, tuple(pieces)))

        if workers is None:
            return make_here
        parcel = _pack_model(parent)

        def make_there(step: int, rung: Rung, pieces: Sequence[Piece]) -> Iterator[Made]:
            orders = [Order(step, rung, part) for part in _parts(parent, rung, pieces, workers.jobs)]
            for several in workers.results(make_from_parcels, (self._parcel, parcel), orders):
                yield from several
        return make_there


def _parts(parent: TorchNet, rung: Rung, pieces: Sequence[Piece], jobs: int) -> list[tuple[Piece, ...]]:
    """The pieces of every task for a worker: one candidate, or several that are scored on shared layers."""
    size = 1 if rung.batches else -(-len(pieces) // (2 * jobs))
    pieces = candidates.in_order(parent, pieces)
    return [tuple(pieces[i:i + size]) for i in range(0, len(pieces), size)]


def _pack_workshop(workshop: Workshop, names: Sequence[str]) -> Parcel:
    """The parcel of a run, with its images as arrays. names: the devices that a machine's workers divide among them."""
    empty = Images(torch.empty(0), torch.empty(0))
    return {"name": str(uuid.uuid4()), "devices": list(names),
            "train": _pack_images(workshop.source.images), "held_out": _pack_images(workshop.held_out),
            "workshop": replace(workshop, source=replace(workshop.source, images=empty), held_out=empty)}


def _pack_model(model: TorchNet) -> Parcel:
    """The parcel of a step: a network, and its weights as one array."""
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return {"name": str(uuid.uuid4()), "network": model.network, "widths": model.widths,
            "weights": np.frombuffer(buffer.getbuffer(), np.uint8)}


def make_from_parcels(run: Parcel, step: Parcel, order: Order) -> list[Made]:
    """Open the parcels, unless this worker has done so before, and make the candidates of the order.

    Raises MemoryError if the device has too little memory.
    """
    with devices.memory_errors():
        workshop = _workshop_of(run)
        model = _once("step", step["name"], lambda: _open_model(step, workshop.device))
        return list(candidates.make_candidates(workshop, model, order))


def teach_from_parcels(run: Parcel, numbered: tuple[int, Lesson]) -> tuple[int, float]:
    """Open the parcel, unless this worker has done so before, and train one network from scratch.

    Raises MemoryError if the device has too little memory.
    """
    number, lesson = numbered
    with devices.memory_errors():
        return number, learned(_workshop_of(run), lesson)


def _workshop_of(run: Parcel) -> Workshop:
    """The run's workshop on this worker's own device, which is set up for it."""
    packed: Workshop = run["workshop"]
    device = Device(run["devices"][worker_number() % len(run["devices"])], packed.device.precision)
    devices.settle(device, packed.threads)
    return _once("run", run["name"], lambda: _open_workshop(run, device))


def _once(kind: str, name: str, make: Callable[[], Any]) -> Any:
    """The result of ``make()``, which is called only for the first parcel of this name in a process."""
    kept = _shelf(kind)
    if name not in kept:
        kept.clear()  # free the step before, first
        kept[name] = make()
    return kept[name]


@cache
def _shelf(kind: str) -> dict[str, Any]:
    """The open parcel of this kind, "run" or "step", in this worker: {name: content}."""
    return {}


def _open_workshop(run: Parcel, device: Device) -> Workshop:
    packed: Workshop = run["workshop"]
    source = replace(packed.source, images=_open_images(run["train"], device))
    return replace(packed, device=device, held_out=_open_images(run["held_out"], device), source=source)


def _open_model(step: Parcel, device: Device) -> TorchNet:
    model = TorchNet(step["network"], step["widths"])
    model.load_state_dict(torch.load(io.BytesIO(step["weights"].tobytes()), map_location="cpu", weights_only=True))
    return device.place(model)


def _pack_images(images: Images) -> dict[str, np.ndarray]:
    return {"pixels": images.pixels.cpu().numpy(), "labels": images.labels.cpu().numpy()}


def _open_images(arrays: dict[str, np.ndarray], device: Device) -> Images:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a cluster's arrays are read-only, and nobody writes them
        return Images(torch.from_numpy(arrays["pixels"]), torch.from_numpy(arrays["labels"])).to(device.name)
