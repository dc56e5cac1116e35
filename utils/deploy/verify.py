"""Compare the outputs of an exported file with torch's on the same images, relative to how far they are apart between
images: the outputs of a deep network may hardly depend on its input, so that a wrong one passes as nearly equal.

An exported file runs as ``logits(pixels)``: uint8 [N, channels, size, size] -> float32 [N, classes]. It is called
through the names of its inputs and outputs, as by its users.
"""

import io
from dataclasses import dataclass
from typing import Callable, Optional

import numpy as np
import torch
from torch import Tensor

from model.torch_net import TorchNet
from utils.common.errors import UserError, first_line
from utils.common.output import quiet
from utils.common.progress import progress
from utils.latency.runners import interpreter_class, onnx_session
from utils.learning.data import Normalisation
from utils.learning.training import wrong_and_loss

Logits = Callable[[Tensor], np.ndarray]

BATCH = 256  # images at a time in torch
TOLERANCE = 1e-3  # of the spread of logits between images: float32 in another order
ROUNDING = 4e-6  # of the logits' size: what float32 makes of a deep network, whose spread may be smaller still
AGREEMENT_PCT = {"float16": 99.0, "dynamic": 95.0, "int8": 95.0}  # defaults of --min_agreement


@dataclass(frozen=True)
class Verification:
    """Logits of torch and of the export on the same images, [N, classes], and what the images show."""

    expected: np.ndarray
    found: np.ndarray
    labels: Optional[np.ndarray]  # [N]; None: random images, which show nothing

    @property
    def difference(self) -> float:
        """The largest absolute difference of logits, NaN if one of them is NaN."""
        return float(np.abs(self.expected - self.found).max())

    @property
    def spread(self) -> float:
        """How far the logits of different images are apart, at most."""
        return float(np.ptp(self.expected, axis=0).max())

    @property
    def allowed(self) -> float:
        """The largest difference that float32 may make."""
        return max(TOLERANCE * self.spread, self._rounding)

    @property
    def shows(self) -> bool:
        """Whether logits differ enough between images for a mistake to be seen."""
        return TOLERANCE * self.spread >= self._rounding

    @property
    def _rounding(self) -> float:
        return ROUNDING * float(np.abs(self.expected).max())

    @property
    def agreement_pct(self) -> float:
        """The percentage of images with the same top class and finite outputs."""
        same = (self.expected.argmax(1) == self.found.argmax(1)) & np.isfinite(self.found).all(1)
        return 100 * float(same.mean())

    @property
    def torch_error_pct(self) -> Optional[float]:
        return error_pct(self.expected, self.labels)

    @property
    def error_pct(self) -> Optional[float]:
        """Test error of the export, %."""
        return error_pct(self.found, self.labels)

    def check(self, name: str, quantize: str, min_agreement_pct: Optional[float]) -> None:
        """Raise UserError unless the export is as near to torch as ``quantize`` allows."""
        images = f"{len(self.found)} {'random' if self.labels is None else 'test'} images; nothing was written"
        if quantize == "none":
            if not self.difference <= self.allowed:
                raise UserError(f"{name}: its outputs differ from torch's by up to {self.difference:.3g}, allowed are "
                                f"{self.allowed:.2g}, on {images}. The converter is at fault: try the other --format, "
                                "or the versions in requirements.txt")
            return
        least = AGREEMENT_PCT[quantize] if min_agreement_pct is None else min_agreement_pct
        if not self.agreement_pct >= least:
            raise UserError(f"{name}: {quantize} keeps torch's top class in {self.agreement_pct:.1f}%, at least "
                            f"{least:g}% are asked for (test error {self.torch_error_pct:.2f}%, exported "
                            f"{self.error_pct:.2f}%; logits differ by up to {self.difference:.3g}), on {images}. Try "
                            "more --num_calibration_images, another --quantize, or a lower --min_agreement")


def error_pct(logits: np.ndarray, labels: Optional[np.ndarray]) -> Optional[float]:
    """The percentage of images whose top class is wrong; None without labels."""
    if labels is None:
        return None
    wrong, _ = wrong_and_loss(torch.from_numpy(logits), torch.from_numpy(labels))
    return 100 * (int(wrong) / len(labels))


@torch.inference_mode()
def torch_logits(model: TorchNet, normalisation: Normalisation, pixels: Tensor) -> np.ndarray:
    """Torch's logits, in float32 even if the network was trained in bf16."""
    model.eval()
    return torch.cat([model(normalisation(part)) for part in pixels.split(BATCH)]).numpy()


def pt2_logits(content: bytes) -> Logits:
    """The function ``logits`` of a .pt2 file, from its bytes."""
    with quiet(1, 2):
        program = torch.export.load(io.BytesIO(content)).module()

    def logits(pixels: Tensor) -> np.ndarray:
        with torch.inference_mode():
            return torch.cat([program(part.float()) for part in pixels.split(BATCH)]).numpy()
    return logits


def tflite_logits(content: bytes) -> Logits:
    """The function ``logits`` of a .tflite file, from its bytes; it runs the signature image by image."""
    with quiet(2):
        interpreter = interpreter_class()(model_content=content)
        try:
            interpreter.allocate_tensors()
        except RuntimeError as error:
            raise UserError(f"the runtime here cannot run the converted model ({first_line(error)[:200]}); another "
                            "--quantize may do") from error

    def logits(pixels: Tensor) -> np.ndarray:
        run = interpreter.get_signature_runner("serving_default")  # reads the interpreter's memory, does not keep it
        images = pixels.permute(0, 2, 3, 1).numpy().astype(run.get_input_details()["image"]["dtype"])
        return np.concatenate([run(image=image[None])["logits"]
                               for image in progress(images, "comparing", len(images))])
    return logits


def onnx_logits(content: bytes) -> Logits:
    """The function ``logits`` of an ONNX file, from its bytes."""
    session = onnx_session(content)

    def logits(pixels: Tensor) -> np.ndarray:
        return np.concatenate([session.run(["logits"], {"image": part.float().numpy()})[0]
                               for part in pixels.split(BATCH)])
    return logits
