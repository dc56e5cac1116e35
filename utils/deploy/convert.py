"""A trained network as the bytes of a .tflite, an ONNX or a .pt2 file, normalisation inside."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Callable

import numpy as np
import torch

from model import pixels
from model.torch_net import TorchNet, weights_of
from utils.common.errors import UserError
from utils.common.output import quiet
from utils.deploy import metadata
from utils.learning.data import Images, Normalisation


def converted(output: Path, convert: Callable[[], bytes]) -> bytes:
    """The bytes from ``convert()``; what the converters print is discarded. Raises UserError if one fails."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with quiet(1, 2):
            return convert()
    except (UserError, ImportError, MemoryError):
        raise
    except Exception as error:  # the converters raise many kinds
        raise UserError(f"{output}: the converter failed, nothing was written: {type(error).__name__}: "
                        f"{' '.join(str(error).split())[:500]}") from error


def tflite_bytes(model: TorchNet, normalisation: Normalisation, quantize: str,
                 calibration: Sequence[np.ndarray]) -> bytes:
    """calibration: for int8, as ``calibration_images`` gives them."""
    from model import keras_net  # loads TensorFlow, which ONNX files do not need
    keras = keras_net.build(model.network, model.widths, weights_of(model),
                            pixels=(normalisation.mean, normalisation.std))
    try:
        return keras_net.to_signed_tflite(keras, quantize, calibration)
    finally:
        keras_net.forget_all()  # a comparison exports many in one process


def onnx_bytes(model: TorchNet, normalisation: Normalisation, labels: Sequence[str], about: Mapping[str, Any],
               opset: int) -> bytes:
    from model import onnx_net  # loads onnx, which .tflite files do not need
    return onnx_net.to_onnx(model, normalisation.mean, normalisation.std,
                            {"labels": metadata.labels_text(labels), "network": json.dumps(about)}, opset)


def pt2_bytes(model: TorchNet, normalisation: Normalisation, labels: Sequence[str], about: Mapping[str, Any]) -> bytes:
    return pixels.to_pt2(model, normalisation.mean, normalisation.std,
                         {metadata.LABELS: metadata.labels_text(labels), metadata.NETWORK: json.dumps(about, indent=1)})


def calibration_images(images: Images, count: int, seed: int) -> list[np.ndarray]:
    """Images as an int8 model takes them, uint8 [1, size, size, channels], to find the ranges of values on.

    The first one has a black and a white corner, so that the range of the input is 0..255 and its uint8 values are the
    pixels' own.
    """
    drawn = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    found = images.pixels[drawn[:count]].permute(0, 2, 3, 1).clone()
    found[0, 0, 0], found[0, 0, -1] = 0, 255
    return list(found[:, None].numpy())
