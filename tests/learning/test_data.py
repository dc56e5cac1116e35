"""Data: folders and digits, the split, the normalisation, and augmentation against torchvision's own transforms."""

import os

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets
from torchvision.transforms import functional as reference

from model.architectures import describe
from utils.common.errors import UserError
from utils.learning import data
from utils.learning.data import Images, augment, draw
from utils.learning.settings import Data


@pytest.mark.parametrize("flip", [True, False])
def test_augmentation_is_torchvisions_on_the_same_draws(flip):
    pixels = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    found = augment(pixels, draw(40, flip, torch.Generator().manual_seed(7)))
    draws = torch.Generator().manual_seed(7)
    top = torch.randint(9, (40,), generator=draws)
    left = torch.randint(9, (40,), generator=draws)
    mirrored = torch.rand(40, generator=draws) < 0.5
    for i in range(40):
        image = reference.pad(pixels[i], 4, padding_mode="reflect")
        image = reference.crop(image, int(top[i]), int(left[i]), 32, 32)
        if flip and mirrored[i]:
            image = reference.hflip(image)
        assert torch.equal(found[i], image)
    assert 10 < mirrored.sum() < 30 and len(top.unique()) == len(left.unique()) == 9


def test_normalisation_is_the_mean_and_deviation_of_the_pixels():
    pixels = torch.randint(0, 256, (50, 3, 8, 8), dtype=torch.uint8)
    found = data.measure_normalisation(Images(pixels, torch.zeros(50)))
    scaled = pixels.double() / 255
    np.testing.assert_allclose(found.mean, scaled.mean((0, 2, 3)), rtol=1e-9)
    np.testing.assert_allclose(found.std, scaled.std((0, 2, 3), correction=0), rtol=1e-9)
    normal = found(pixels)
    torch.testing.assert_close(normal.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(normal.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0)


def test_the_split_is_stratified_fixed_and_complete():
    labels = torch.arange(10).repeat(30)
    images = Images(torch.arange(300)[:, None, None, None].to(torch.int32), labels)
    train, held = data.split_holdout(images, 0.1)
    assert len(train) == 270 and torch.equal(held.labels.bincount(), torch.full((10,), 3))
    ids = torch.cat([train.pixels, held.pixels]).flatten()
    assert torch.equal(ids.sort().values, torch.arange(300, dtype=torch.int32))
    torch.manual_seed(99)
    assert torch.equal(data.split_holdout(images, 0.1)[1].pixels, held.pixels)


def test_digits():
    grey = data.load_images(Data("digits", "unused", 0), (1, 8, 8))
    assert grey.train.pixels.shape == (1437, 1, 8, 8)
    assert torch.equal(grey.train.pixels[:, 0], data.load_images(Data("digits", "", 0), (3, 8, 8)).train.pixels[:, 1])
    colours = torch.randint(0, 256, (1, 3, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    of_pil = torch.from_numpy(np.array(Image.fromarray(colours[0].permute(1, 2, 0).numpy()).convert("L"))).int()
    one = data._resized(Images(colours, torch.zeros(1)), (1, 5, 7)).pixels[0, 0].int()
    assert (one - of_pil).abs().max() <= 1
    digits = data.load_images(Data("digits", "unused", 0), (3, 32, 32))
    assert digits.train.pixels.shape == (1437, 3, 32, 32) and digits.test.pixels.shape == (360, 3, 32, 32)
    assert digits.train.pixels.dtype == torch.uint8 and digits.train.pixels.max() > 240
    assert digits.classes == tuple("0123456789") and not digits.flip
    assert (digits.test.labels.bincount() > 30).all()


@pytest.fixture
def folder(tmp_path):
    """train/ and test/ with two classes of 3 and 2 images of one colour each, one of them larger than 32 pixels."""
    for part in ("train", "test"):
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(3 - label):
                size = 48 if i == 1 else 32
                Image.new("RGB", (size, size), (10 * i, 100 * label, 50)).save(tmp_path / part / name / f"{i}.png")
    return tmp_path


def test_a_folder_of_images(folder):
    found = data.load_images(Data("cifar10", str(folder), 2), (3, 32, 32))
    assert found.classes == ("cat", "dog") and found.flip
    assert found.train.labels.tolist() == [0, 0, 0, 1, 1]
    assert found.train.pixels[:, :, 16, 16].tolist() == [[0, 0, 50], [10, 0, 50], [20, 0, 50], [0, 100, 50],
                                                         [10, 100, 50]]


@pytest.mark.parametrize("damage, message", [
    (lambda f: (f / "train/dog/0.png").write_bytes(b"torn"), "train/dog/0.png: not a readable image"),
    (lambda f: [p.unlink() for p in (f / "test/dog").iterdir()], "test/dog: no images there"),
    (lambda f: (f / "test/dog").rename(f / "test/wolf"), "expected the same two or more classes"),
    (lambda f: Image.new("I;16", (32, 32), 300).save(f / "test/dog/0.png"), "0.png: .*of mode I;16; expected 8 bits"),
    (lambda f: Image.new("F", (32, 32), 0.5).save(f / "test/dog/0.tif"), "0.tif: .*of mode F; expected 8 bits"),
    (lambda f: [(f / p / "dog").rename(os.fsdecode(bytes(f / p) + b"/K\xe4fer")) for p in ("train", "test")],
     "the class .* is no UTF-8; rename"),
    (lambda f: [(f / part).rename(f / f"{part}s") for part in ("train", "test")], "neither train/CLASS/ and test/"),
    (lambda f: (f / "test").rename(f / "tset"), "test: missing")])
def test_a_damaged_folder_is_named(folder, damage, message):
    damage(folder)
    with pytest.raises(UserError, match=message):
        data.load_images(Data("cifar10", str(folder), 2), (3, 32, 32))


def test_only_the_folder_that_nobody_named_is_downloaded_into(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(datasets, "CIFAR10", type("CIFAR10", (), {"base_folder": "batches", "__init__": (
        lambda self, folder, train, download: asked.append((folder, download)) or 1 / 0)}))
    monkeypatch.setattr(data, "DATA_LOC", str(tmp_path / "default"))
    for name, words in (("default", "the download failed"), ("other", "neither train/CLASS/")):
        with pytest.raises(UserError, match=words):
            data.load_images(Data("cifar10", str(tmp_path / name), 0), (3, 32, 32))
    assert asked == [(tmp_path / "default", True)]


def test_images_of_other_classes_are_refused(folder):
    network = describe("res", depth=10, width=0.25, num_classes=2)
    wanted = Data("cifar10", str(folder), 0)
    assert data.load_for(network, folder / "n.t7", wanted, ["cat", "dog"]).classes == ("cat", "dog")
    assert data.load_for(network, folder / "n.t7", wanted).classes == ("cat", "dog")  # not known
    with pytest.raises(UserError, match="n.t7: was trained on the class wolf, where the images have dog"):
        data.load_for(network, folder / "n.t7", wanted, ["cat", "wolf"])


def test_cifar10_in_torchvisions_layout(tmp_path):
    """A real pickle batch layout, with its checksums put in place: the reading path that users take."""
    import hashlib
    import pickle
    from unittest import mock

    from torchvision.datasets import CIFAR10
    base = tmp_path / CIFAR10.base_folder
    base.mkdir()
    random, lists = np.random.default_rng(0), {"train": [], "test": []}
    for part, names in (("train", [f"data_batch_{i}" for i in range(1, 6)]), ("test", ["test_batch"])):
        for name in names:
            raw = pickle.dumps({"data": random.integers(0, 256, (4, 3072), np.uint8), "labels": [0, 1, 2, 9]})
            (base / name).write_bytes(raw)
            lists[part].append([name, hashlib.md5(raw).hexdigest()])
    raw = pickle.dumps({"label_names": list("abcdefghij")})
    (base / "batches.meta").write_bytes(raw)
    meta = {"filename": "batches.meta", "key": "label_names", "md5": hashlib.md5(raw).hexdigest()}
    with mock.patch.multiple(CIFAR10, train_list=lists["train"], test_list=lists["test"], meta=meta):
        found = data.load_images(Data("cifar10", str(tmp_path), 0), (3, 32, 32))
    assert found.train.pixels.shape == (20, 3, 32, 32) and found.test.labels.tolist() == [0, 1, 2, 9]
    first = pickle.loads((base / "data_batch_1").read_bytes())["data"][0].reshape(3, 32, 32)
    assert np.array_equal(found.train.pixels[0].numpy(), first)


def test_the_real_copy_is_read(shared, tmp_path):
    import tarfile
    with tarfile.open(shared / "data/cifar10-jpeg.tar.xz") as archive:  # its first 300 files, wherever they are
        members = []
        for member in archive:
            if member.isfile():
                members.append(member.name)
                archive.extract(member, tmp_path, filter="data")
            if len(members) == 300:
                break
    roots = list(tmp_path.rglob("*.jpg"))
    assert len(roots) == 300 and {p.parts[-3] for p in roots} <= {"train", "test"}
    assert data._read_image(roots[0], (3, 32, 32)).shape == (32, 32, 3)
