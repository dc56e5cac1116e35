"""One export from beginning to end: load the images, convert, and check that the file computes what torch does."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch
from torch import Tensor

from model.network import Network
from model.torch_net import TorchNet
from utils.common.errors import UserError
from utils.common.provenance import stamp
from utils.deploy import convert, metadata, verify
from utils.deploy.verify import Verification
from utils.learning import checkpoint, data
from utils.learning.data import Dataset, Normalisation

RANDOM_IMAGES = 64  # to compare on, without the data


@dataclass(frozen=True)
class Export:
    """What is asked for."""

    output: Path
    kind: str  # "tflite", "onnx" or "pt2"
    opset: int  # of ONNX operators
    quantize: str  # one of metadata.QUANTIZE
    num_calibration_images: int  # training images, for int8
    num_test_images: int  # to compare with torch on
    min_agreement_pct: Optional[float]  # None: verify.AGREEMENT_PCT
    seed: int  # of the images that are drawn


@dataclass(frozen=True)
class Trained:
    """A checkpoint and the network in it."""

    path: Path
    content: dict[str, Any]
    model: TorchNet

    @property
    def network(self) -> Network:
        return self.model.network

    @property
    def normalisation(self) -> Normalisation:
        return checkpoint.normalisation_of(self.content)


@dataclass(frozen=True)
class Exported:
    raw: bytes  # of the file
    verification: Verification


def open_trained(path: Path) -> Trained:
    content = checkpoint.load(path)
    return Trained(path, content, checkpoint.build(content, path))


def images_for(asked: Export, trained: Trained, dataset: Optional[str], data_loc: Optional[str],
               workers: int) -> Optional[Dataset]:
    """The images to calibrate and compare on; None if the checkpoint's are missing and no others were named.

    Raises UserError if images that were named are missing, or if a quantised model has none.
    """
    wanted = checkpoint.data_of(trained.content, dataset, data_loc, workers)
    try:
        if wanted.dataset == data.RANDOM:
            raise UserError("none were named for an imported network; --data_loc or --dataset names them")
        return data.load_for(trained.network, trained.path, wanted, checkpoint.learned_classes(trained.content))
    except UserError as error:
        if asked.quantize != "none":
            raise UserError(f"--quantize={asked.quantize}: needs the images, training ones to calibrate on (int8) and "
                            f"test ones to show what it costs: {error}") from None
        if dataset or data_loc:
            raise
        print(f"comparing on random images, without a test error, as there are no images: {error}", flush=True)
        return None


def export(asked: Export, trained: Trained, images: Optional[Dataset]) -> Exported:
    """Convert, and compare with torch; writes nothing. Raises UserError where the outputs differ."""
    network, model = trained.network, trained.model
    labels = _class_names(trained, images)
    pixels, truth = _compared_on(asked, images, network)
    expected = verify.torch_logits(model, trained.normalisation, pixels)
    about = {**stamp(metadata.FORMAT), "network": network.arguments, "widths": model.widths, "quantize": asked.quantize,
             "normalisation": asdict(trained.normalisation), "range": [0, 255],
             "checkpoint": {"file": trained.path.name, "made_by": trained.content.get("made_by"),
                            "sha256": hashlib.sha256(trained.path.read_bytes()).hexdigest()},
             "test_error_pct": verify.error_pct(expected, truth), "test_images": len(pixels) if images else 0}
    print(f"{trained.path}: {network.title}, {network.parameter_count(model.widths):,} parameters; converting",
          flush=True)
    if asked.kind == "onnx":
        raw = convert.converted(asked.output, lambda: convert.onnx_bytes(model, trained.normalisation, labels, about,
                                                                         asked.opset))
        found = verify.onnx_logits(raw)(pixels)
    elif asked.kind == "pt2":
        raw = convert.converted(asked.output, lambda: convert.pt2_bytes(model, trained.normalisation, labels, about))
        found = verify.pt2_logits(raw)(pixels)
    else:
        ranges = []
        if asked.quantize == "int8" and images:
            ranges = convert.calibration_images(images.train, asked.num_calibration_images, asked.seed)
        raw = convert.converted(asked.output, lambda: convert.tflite_bytes(model, trained.normalisation, asked.quantize,
                                                                           ranges))
        raw = metadata.append(raw, labels, about)
        found = verify.tflite_logits(raw)(pixels)
    verification = Verification(expected, found, truth)
    verification.check(str(asked.output), asked.quantize, asked.min_agreement_pct)
    return Exported(raw, verification)


def _class_names(trained: Trained, images: Optional[Dataset]) -> tuple[str, ...]:
    """The checkpoint's, else the data's, else numbers."""
    count = trained.network.arguments["num_classes"]
    names = trained.content.get("classes") or (images.classes if images else [str(i) for i in range(count)])
    if len(names) != count:
        raise UserError(f"{trained.path}: has {len(names)} class names for {count} classes; train the network again")
    return tuple(names)


def _compared_on(asked: Export, images: Optional[Dataset], network: Network) -> tuple[Tensor, Optional[np.ndarray]]:
    """(pixels, labels) to compare on: test images drawn at random, or random pixels and no labels."""
    generator = torch.Generator().manual_seed(asked.seed)
    if images is None:
        entry, = network.inputs
        shape = (RANDOM_IMAGES, network.full_widths[entry.group], *entry.sides)
        return torch.randint(256, shape, generator=generator, dtype=torch.uint8), None
    drawn = images.test[torch.randperm(len(images.test), generator=generator)[:asked.num_test_images]]
    return drawn.pixels, drawn.labels.numpy()
