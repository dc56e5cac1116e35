"""What is to be read in, as plain values: the script makes them from its flags before it loads torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # torchvision's


@dataclass(frozen=True)
class Import:
    """A module, its weights, and the images that it takes."""

    name: str  # of the result
    model: str  # where the module comes from, as modules.py reads it
    model_args: Mapping[str, Any]
    weights: Optional[Path]  # None: the module as it is made
    classes: Optional[Path]  # a file of names, one per line; None: unknown
    sides: tuple[int, int]  # of images: height, width, pixels
    mean: tuple[float, ...]  # of pixels in 0..1, per channel; one number: grey images
    std: tuple[float, ...]
    keep: tuple[str, ...]  # patterns of layers that are not to be pruned
    seed: int
