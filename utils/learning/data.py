"""Images in memory: CIFAR-10 in torchvision's layout, any folder train/CLASS/*, test/CLASS/*, or the bundled digits.

Images are uint8 [N, channels, height, width], colour or grey, and labels int64 [N], decoded once. Batches are augmented
and normalised as tensors.
Every pass draws from a new random generator, so a seed fixes every batch, whatever ran before.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Callable, NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.network import Network
from utils.common.cli import DATA_LOC
from utils.common.errors import UserError, first_line
from utils.common.progress import progress
from utils.learning.settings import Data

RANDOM = "random"  # a dataset: of an imported network for which no data was named
SPLIT_SEED = 0  # the held-out images are the same in every script and for every --seed
RANDOM_IMAGES = (1000, 200)  # for training and testing, where no data was named
CROP_PAD = 4  # pixels of reflection around an image before the random crop


Shape = tuple[int, int, int]  # channels, height, width


@dataclass(frozen=True)
class Images:
    pixels: Tensor  # uint8 [N, 3 or 1, height, width]
    labels: Tensor  # int64 [N]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index) -> "Images":
        return Images(self.pixels[index], self.labels[index])

    def to(self, device) -> "Images":
        return Images(self.pixels.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    train: Images
    test: Images
    classes: tuple[str, ...]
    flip: bool  # whether a mirrored image keeps its label


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation per channel, of pixels brought to 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pixels: Tensor) -> Tensor:  # uint8 [N, C, H, W] -> float [N, C, H, W]
        return self.on(pixels.device)(pixels)

    def on(self, device) -> Callable[[Tensor], Tensor]:
        """The same as a function for one device: it makes its constants once, which saves a wait for every batch."""
        mean, std = (torch.tensor(v, device=device).view(1, -1, 1, 1) * 255 for v in (self.mean, self.std))
        return lambda pixels: (pixels.float() - mean) / std


def measure_normalisation(images: Images) -> Normalisation:
    """Mean and deviation per channel over all pixels of these images (exact integer sums)."""
    sums, squares = [], []
    for channel in images.pixels.unbind(1):
        counts = torch.bincount(channel.reshape(-1).long(), minlength=256).double()
        values = torch.arange(256, dtype=torch.float64, device=counts.device) / 255
        mean = (counts * values).sum() / counts.sum()
        sums.append(mean.item())
        squares.append(((counts * (values - mean) ** 2).sum() / counts.sum()).sqrt().item())
    return Normalisation(tuple(sums), tuple(max(s, 1e-3) for s in squares))


def split_holdout(images: Images, holdout_prop: float) -> tuple[Images, Images]:
    """Split into (training part, held-out part), stratified and the same in every run; 0 holds nothing out."""
    if not holdout_prop:
        return images, images[:0]
    from sklearn.model_selection import train_test_split
    try:
        train, held = train_test_split(np.arange(len(images)), test_size=holdout_prop, random_state=SPLIT_SEED,
                                       stratify=images.labels.cpu().numpy())
    except ValueError as error:
        raise UserError(f"--holdout_prop={holdout_prop}: cannot hold that part out of {len(images)} images "
                        f"({error})") from error
    return images[torch.from_numpy(np.sort(train))], images[torch.from_numpy(np.sort(held))]


class Draws(NamedTuple):
    """What is random about augmenting N images."""

    top: Tensor  # int64 [N]: the first row of the crop from the padded image, 0..2 * CROP_PAD
    left: Tensor  # int64 [N]
    mirrored: Tensor  # bool [N]


def draw(count: int, flip: bool, generator: torch.Generator) -> Draws:
    """Crops anywhere, and every other image mirrored (if ``flip``)."""
    top = torch.randint(2 * CROP_PAD + 1, (count,), generator=generator)
    left = torch.randint(2 * CROP_PAD + 1, (count,), generator=generator)
    return Draws(top, left, (torch.rand(count, generator=generator) < 0.5) & flip)


def augment(pixels: Tensor, draws: Draws) -> Tensor:
    """Reflect-pad by 4, crop to the old size, and mirror, a whole batch at once.

    pixels: [N, C, H, W], any type, on the device of ``draws``. Returns the same shape and type.
    """
    n, _, height, width = pixels.shape
    across = torch.arange(width, device=pixels.device)
    across = torch.where(draws.mirrored[:, None], width - 1 - across, across)  # [N, W]
    rows = _reflect(draws.top[:, None] + torch.arange(height, device=pixels.device) - CROP_PAD, height)  # [N, H]
    columns = _reflect(draws.left[:, None] + across - CROP_PAD, width)
    image = torch.arange(n, device=pixels.device)[:, None, None]
    return pixels.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _reflect(index: Tensor, size: int) -> Tensor:
    return (size - 1) - (size - 1 - index.abs()).abs()


# --- loading ---------------------------------------------------------------------------------------------------

def load_images(wanted: Data, shape: Shape) -> Dataset:
    """Load ``cifar10`` (torchvision's files or train/CLASS folders) or ``digits`` into memory, resized to ``shape``.

    Images of one channel are grey. Raises UserError naming the folder or the image that is missing or broken.
    """
    return _load(wanted.dataset, wanted.data_loc, wanted.workers, shape)


@lru_cache(maxsize=1)
def _load(dataset: str, data_loc: str, workers: int, shape: Shape) -> Dataset:
    """Cached: a process that runs several scripts, as in a comparison, reads the images once. Do not change them."""
    if dataset == "digits":
        return _digits(shape)
    folder = Path(os.path.expanduser(data_loc))
    if (folder / "train").is_dir() or (folder / "test").is_dir():
        return _folders(folder, shape, workers)
    found = _cifar10(folder, download=folder.resolve() == Path(os.path.expanduser(DATA_LOC)).resolve())
    return replace(found, train=_resized(found.train, shape), test=_resized(found.test, shape))


def shape_for(network: Network, where: str) -> Shape:
    """The shape of the network's images. Raises UserError, naming ``where``, if they are neither colour nor grey."""
    entry = network.inputs[0]
    channels = network.full_widths[entry.group]
    if channels not in (1, 3) or len(network.inputs) > 1:
        raise UserError(f"{where}: a network that reads {len(network.inputs)} images of {channels} channels; images "
                        "are of 3 channels, or of 1 (grey), here")
    return (channels, *entry.sides)


def load_for(network: Network, path: Path, wanted: Data, classes: Sequence[str] = ()) -> Dataset:
    """The images for the network of the checkpoint at ``path``. classes: the names that it was trained on, where they
    are known. Raises UserError also if the images are of other classes."""
    if wanted.dataset == RANDOM:
        return _random(network, shape_for(network, str(path)))
    images = load_images(wanted, shape_for(network, str(path)))
    if len(images.classes) != network.arguments["num_classes"]:
        raise UserError(f"{path}: tells {network.arguments['num_classes']} classes apart, but the data has "
                        f"{len(images.classes)}; check --dataset and --data_loc")
    check_classes(f"{path}", classes, images)
    return images


def check_classes(what: str, classes: Sequence[str], images: Dataset) -> None:
    """Raise UserError if these names of classes, () where they are not known, are not those of the images."""
    odd = [(one, other) for one, other in zip(classes, images.classes) if one != other]
    if odd:
        raise UserError(f"{what}: was trained on the class {odd[0][0]}, where the images have {odd[0][1]}; check "
                        "--dataset and --data_loc")


def _random(network: Network, shape: Shape) -> Dataset:
    """Noise; its labels mean nothing, and every class of the first ten is as frequent."""
    count = network.arguments["num_classes"]
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    train, test = (Images(torch.randint(256, (number, *shape), generator=generator, dtype=torch.uint8),
                          torch.arange(number) % min(count, 10)) for number in RANDOM_IMAGES)
    return Dataset(train, test, tuple(str(n) for n in range(count)), flip=True)


def _digits(shape: Shape) -> Dataset:
    """scikit-learn's 1,797 digits, 8x8 grey values 0..16, resized; a fifth is for testing."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    digits: Any = load_digits()
    pixels = torch.from_numpy(digits.images * (255 / 16)).round().to(torch.uint8)[:, None].repeat(1, 3, 1, 1)
    everything = _resized(Images(pixels, torch.from_numpy(digits.target).long()), shape)
    train, test = train_test_split(np.arange(len(everything)), test_size=0.2, random_state=SPLIT_SEED,
                                   stratify=digits.target)
    return Dataset(everything[torch.from_numpy(train)], everything[torch.from_numpy(test)],
                   tuple(str(c) for c in digits.target_names), flip=False)


def _resized(images: Images, shape: Shape) -> Images:
    """Colour images as images of this shape."""
    pixels = images.pixels
    if shape[0] == 1 and pixels.shape[1] == 3:
        luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)  # of ITU-R 601, as in PIL
        pixels = torch.cat([(part.float() * luma).sum(1, keepdim=True).round().to(torch.uint8)
                            for part in pixels.split(4096)])
    if tuple(pixels.shape[2:]) != shape[1:]:
        pixels = torch.nn.functional.interpolate(pixels.float(), size=shape[1:], mode="bilinear", antialias=True)
        pixels = pixels.round().clamp(0, 255).to(torch.uint8)
    return Images(pixels, images.labels)


def _cifar10(folder: Path, *, download: bool) -> Dataset:
    """download: whether the files are fetched where they are missing."""
    from torchvision.datasets import CIFAR10
    stood, there = folder.exists(), (folder / CIFAR10.base_folder).is_dir()
    if not there and not download:
        raise UserError(f"{folder}: neither train/CLASS/ and test/CLASS/ folders nor torchvision's "
                        f"{CIFAR10.base_folder}/ there; check --data_loc (without it, CIFAR-10 is downloaded into "
                        f"{DATA_LOC})")
    try:
        parts = [CIFAR10(folder, train=train, download=not there) for train in (True, False)]
    except Exception as error:  # a failed download raises whatever the network layer raises
        if not stood and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()  # torchvision makes it before it finds that it cannot download
        raise UserError(f"{folder}: no CIFAR-10 there, or only a part, and the download failed ({first_line(error)}). "
                        f"Put torchvision's {CIFAR10.base_folder}/ or train/CLASS/ and test/CLASS/ folders there, "
                        "name another --data_loc, or try --dataset=digits") from error
    train, test = (Images(torch.from_numpy(p.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(p.targets))
                   for p in parts)
    return Dataset(train, test, tuple(parts[0].classes), flip=True)


def _folders(folder: Path, shape: Shape, workers: int) -> Dataset:
    names = {}
    for part in ("train", "test"):
        if not (folder / part).is_dir():
            raise UserError(f"{folder / part}: missing; expected the images of every class in {part}/CLASS/")
        names[part] = sorted(d.name for d in (folder / part).iterdir() if d.is_dir())
    if names["train"] != names["test"] or len(names["train"]) < 2:
        raise UserError(f"{folder}: expected the same two or more classes in train/ and test/, "
                        f"found {names['train']} and {names['test']}")
    for name in names["train"]:
        if not _is_text(name):
            raise UserError(f"{folder / 'train'}: the class {name!r} is no UTF-8; rename its folders")
    train, test = (_read_part(folder / part, names["train"], shape, workers) for part in ("train", "test"))
    return Dataset(train, test, tuple(names["train"]), flip=True)


def _is_text(name: str) -> bool:
    try:
        return bool(name.encode())
    except UnicodeEncodeError:
        return False


def _read_part(folder: Path, classes, shape: Shape, workers: int) -> Images:
    from torchvision.datasets.folder import IMG_EXTENSIONS
    files, labels = [], []
    for label, name in enumerate(classes):
        found = sorted(f for f in (folder / name).rglob("*") if f.suffix.lower() in IMG_EXTENSIONS)
        if not found:
            raise UserError(f"{folder / name}: no images there ({', '.join(IMG_EXTENSIONS)})")
        files += found
        labels += [label] * len(found)
    channels, height, width = shape
    pixels = np.empty((len(files), height, width, channels), np.uint8)

    def read(i: int) -> None:
        pixels[i] = _read_image(files[i], shape)

    with ThreadPoolExecutor(max(workers, 1)) as pool:
        for _ in progress(pool.map(read, range(len(files))), f"reading {folder.name}", len(files)):
            pass
    return Images(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels))


def _read_image(file: Path, shape: Shape) -> np.ndarray:
    """[height, width, channels]."""
    channels, height, width = shape
    from PIL import Image
    try:
        with Image.open(file) as image:
            if image.mode[0] in "IF":  # PIL would clip them, to white
                raise ValueError(f"of mode {image.mode}; expected 8 bits per channel")
            image = image.convert("RGB" if channels == 3 else "L")
            if image.size != (width, height):
                image = image.resize((width, height), Image.Resampling.BILINEAR)
            return np.asarray(image).reshape(height, width, channels)
    except Exception as error:  # PIL raises many kinds for a broken file
        raise UserError(f"{file}: not a readable image ({first_line(error)}); replace or remove it") from error
