"""One network read in, pruned, and written to ONNX and .pt2, or to .tflite, in a process of its own, which prints what
was found:

    python -m tests.imported MODEL SIDE MODEL_ARGS FOLDER onnx|tflite

FOLDER gets full.pt2, pruned.pt2, and beside each the images and torch's logits (.npz). TensorFlow and torch's exporter
do not live in one process.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from model import surgery
from model.torch_net import TorchNet
from utils.deploy import convert, verify
from utils.importing import assembly, proof
from utils.importing.settings import IMAGENET_MEAN, IMAGENET_STD, Import
from utils.learning.data import Normalisation

NORMAL = Normalisation(IMAGENET_MEAN, IMAGENET_STD)


def main() -> None:
    model, side, arguments, folder, form = sys.argv[1:]
    asked = Import("mine", model, json.loads(arguments), None, None, (int(side), int(side)), NORMAL.mean, NORMAL.std,
                   (), 0)
    found = assembly.read_in(asked)
    report = found.report.as_dict()
    generator = torch.Generator().manual_seed(0)
    full = lively(found.model, generator)
    networks = {"full": full, "pruned": lively(surgery.slice_channels(full, pruned(full, generator)), generator)}
    pixels = torch.randint(256, (4, 3, int(side), int(side)), generator=generator, dtype=torch.uint8)
    for name, network in networks.items():
        expected = verify.torch_logits(network, NORMAL, pixels)
        if form == "onnx":
            found = verify.onnx_logits(convert.onnx_bytes(network, NORMAL, [], {}, 18))(pixels)
            (Path(folder) / f"{name}.pt2").write_bytes(convert.pt2_bytes(network, NORMAL, [], {}))
            np.savez(Path(folder) / f"{name}.npz", images=pixels.float().numpy(), expected=expected)
        else:
            found = verify.tflite_logits(convert.tflite_bytes(network, NORMAL, "none", []))(pixels)
        report[name] = {form: float(np.abs(found - expected).max() / np.ptp(expected, axis=0).max()),
                        "gone": len(full.layers) - len(network.layers)}
    print(json.dumps(report))


def lively(model: TorchNet, generator: torch.Generator) -> TorchNet:
    """With random scales and the statistics of images, so that outputs differ from image to image."""
    proof.seed_anew(model, model.network, generator)
    return model.eval()


def pruned(model: TorchNet, generator: torch.Generator) -> surgery.Keep:
    """Some channels of every group, and one branch, the first that may go."""
    network = model.network
    keep = dict(proof.random_channels(network, 0.1, generator, removals=False))
    for group in (g.name for g in network.groups if g.removable):
        if network.lives({**{g: len(index) for g, index in keep.items()}, **{
                g.name: g.width for g in network.groups if not g.prunable}, group: 0}):
            return {**keep, group: torch.zeros(0, dtype=torch.long)}
    return keep


if __name__ == "__main__":
    main()
