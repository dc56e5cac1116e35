"""Candidates made here or by workers, to which parcels travel: dicts of arrays, one for a run and one for every step."""

import io
import warnings
from dataclasses import replace
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import torch

from model.torch_net import TorchNet
from utils import candidates, device as devices
from utils.candidates import Made, Order, Piece, Workshop
from utils.data import Images
from utils.device import Device
from utils.halving import Rung
from utils.workers import Workers

Parcel = Dict[str, Any]
Make = Callable[[int, Rung, Sequence[Piece]], Iterator[Made]]  # of a step, to a rung


class Crew:
    """Whoever makes the candidates of a run: this process, or workers, on the GPUs in turn where there are several."""

    def __init__(self, workshop: Workshop, workers: Optional[Workers] = None):
        self.workshop, self._workers = workshop, workers
        self._parcel = _pack_workshop(workshop) if workers else None

    def of_step(self, parent: TorchNet) -> Make:
        """What brings candidates of ``parent`` to a rung, yielding each when it is done, in any order."""
        parcel = _pack_model(parent) if self._workers else None

        def make(step: int, rung: Rung, pieces: Sequence[Piece]) -> Iterator[Made]:
            if self._workers is None:
                with devices.memory_errors():
                    yield from candidates.carry_out(self.workshop, parent, Order(step, rung, tuple(pieces)))
                return
            names = self.workshop.device.one_each(self._workers.backend)
            tasks = [{"order": Order(step, rung, part), "device": names[i % len(names)]}
                     for i, part in enumerate(self._parts(parent, rung, pieces))]
            for several in self._workers.results(carry_out, (self._parcel, parcel), tasks):
                yield from several
        return make

    def _parts(self, parent: TorchNet, rung: Rung, pieces: Sequence[Piece]) -> List[Tuple[Piece, ...]]:
        """What is done by one worker at a time: one candidate, or several that are scored on shared layers."""
        size = 1 if rung.batches else -(-len(pieces) // (2 * self._workers.jobs))
        pieces = candidates.in_order(parent, pieces)
        return [tuple(pieces[i:i + size]) for i in range(0, len(pieces), size)]


def _pack_workshop(workshop: Workshop) -> Parcel:
    """What a run needs everywhere, the images as arrays."""
    empty = Images(torch.empty(0), torch.empty(0))
    return {"train": _pack_images(workshop.source.images), "held_out": _pack_images(workshop.held_out),
            "workshop": replace(workshop, source=replace(workshop.source, images=empty), held_out=empty)}


def _pack_model(model: TorchNet) -> Parcel:
    """A network and its weights, these as one array."""
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return {"network": model.network, "widths": model.widths, "weights": np.frombuffer(buffer.getbuffer(), np.uint8)}


def carry_out(run: Parcel, step: Parcel, task: Dict[str, Any]) -> List[Made]:
    """Open the parcels and do what the task asks: {"order": an order, "device": the name of the device to do it on}.

    Raises MemoryError where the device has too little.
    """
    order: Order = task["order"]
    packed: Workshop = run["workshop"]
    device = Device(task["device"], packed.device.precision)
    devices.settle(device, packed.threads)
    with devices.memory_errors():
        workshop = replace(packed, device=device, held_out=_open_images(run["held_out"], device),
                           source=replace(packed.source, images=_open_images(run["train"], device)))
        parent = TorchNet(step["network"], step["widths"])
        parent.load_state_dict(torch.load(io.BytesIO(step["weights"].tobytes()), map_location="cpu", weights_only=True))
        return list(candidates.carry_out(workshop, device.place(parent), order))


def _pack_images(images: Images) -> Dict[str, np.ndarray]:
    return {"pixels": images.pixels.cpu().numpy(), "labels": images.labels.cpu().numpy()}


def _open_images(arrays: Dict[str, np.ndarray], device: Device) -> Images:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a cluster's arrays are read-only, and nobody writes them
        return Images(torch.from_numpy(arrays["pixels"]), torch.from_numpy(arrays["labels"])).to(device.name)
