"""Begin or resume a training. NAME.unfinished.t7 is written at the start and after every epoch, so a killed training
loses at most one epoch; NAME.t7, which may stand there already, is replaced when the training is done."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional

import torch

from model.network import Network, Widths
from model.torch_net import TorchNet
from utils.common.errors import UserError
from utils.common.resume import changed_flags
from utils.learning import checkpoint, data, training
from utils.learning import device as devices
from utils.learning.data import Dataset, Images, Normalisation
from utils.learning.device import Device
from utils.learning.distillation import Teacher
from utils.learning.settings import Compute, Data, Recipe, Schedule, Teaching

Content = dict[str, Any]  # of a checkpoint

FREE_FLAGS = ("device", "workers", "data_loc")  # may differ between a run and its resumption


@dataclass(frozen=True)
class Training:
    """What is trained, and how."""

    network_of: Callable[[Optional[int]], tuple[Network, Widths]]  # of a number of classes, or of any
    recipe: Recipe
    schedule: Schedule
    data: Data
    compute: Compute
    teaching: Optional[Teaching]
    initial: Optional[Content] = None  # a checkpoint whose weights it begins with


def train(asked: Training, path: Path, flags: Mapping[str, Any], saved: Optional[Content]) -> float:
    """Train, from the beginning or from ``saved``, into the checkpoint at ``path``; returns the test error, %.

    flags: the command line, which is stored in the checkpoint.
    """
    device, compute = devices.settled(asked.compute)
    flags = {**flags, "precision": compute.precision, "threads": compute.threads}
    images = data.load_images(asked.data, data.shape_for(asked.network_of(None)[0], "--net"))
    network, widths = asked.network_of(len(images.classes))
    if network.arguments["num_classes"] != len(images.classes):
        raise UserError(f"--net={network.short_name}: tells {network.arguments['num_classes']} classes apart, but the "
                        f"data has {len(images.classes)}; check --dataset and --data_loc")
    held_in, _ = data.split_holdout(images.train, asked.data.holdout_prop)
    teacher, normalisation, taught = _teacher(asked.teaching, network, images, device)
    if asked.initial:
        checkpoint.check_begins(network, widths, asked.initial)
        normalisation = _used_to(asked.initial, normalisation)
    normalisation = normalisation or data.measure_normalisation(held_in)
    torch.manual_seed(compute.seed)
    model = TorchNet(network, widths)
    if asked.initial and not saved:
        _begin_with(model, asked.initial)
    elif "description" in network.arguments and not saved:
        print(f"{network.short_name}: from scratch, initialised by He et al. (fan-out), not by rules of the module "
              "that it was imported from")
    if saved:
        _check_same(saved, path, network, widths, taught, flags)
        _check_images(saved, path, images, normalisation)
        model = checkpoint.build(saved, begun_in(path))
    model = device.place(model)
    print(f"{network.short_name}: {network.parameter_count(model.widths):,} parameters on {device.name} in "
          f"{device.precision}; {len(held_in):,} images to train on, {len(images.test):,} to test, "
          f"{len(images.classes)} classes")
    carried = {"flags": flags, "classes": list(images.classes), "holdout_prop": asked.data.holdout_prop, **taught}
    return _train_epochs(asked, model, device, path, saved, images, held_in, normalisation, teacher, carried)


def _used_to(initial: Content, taught: Optional[Normalisation]) -> Normalisation:
    """The normalisation that the first weights are used to. Raises UserError if a teacher has another."""
    found = checkpoint.normalisation_of(initial)
    if taught and taught != found:
        raise UserError("--init and --teacher were trained on differently normalised images; leave one of them out")
    return found


def _begin_with(model: TorchNet, initial: Content) -> None:
    new = checkpoint.begin_with(model, initial)
    print(f"{model.network.short_name}: begins with the weights of --init" + (
        f"; another number of classes, so that {', '.join(new)} are new" if new else ""))


def _train_epochs(asked: Training, model: TorchNet, device: Device, path: Path, saved: Optional[Content],
                  images: Dataset, held_in: Images, normalisation: Normalisation, teacher: Optional[Teacher],
                  carried: Content) -> float:
    """Train the remaining epochs, and write the checkpoint after each. carried: further keys of the checkpoint."""
    epochs, recipe = asked.schedule.epochs, asked.recipe
    optimizer = training.sgd(model, recipe)
    history, first = (saved["error_history"], saved["epoch"]) if saved else ([], 0)
    if saved and first < epochs:
        checkpoint.restore_optimizer(optimizer, saved, begun_in(path))
    if not saved and epochs:  # so that --resume goes on with this training, and with no older one
        checkpoint.save(unfinished_path(path), model, normalisation, epoch=0, error_history=[], **carried,
                        optimizer=optimizer.state_dict())
    source = training.BatchSource(held_in.to(device.name), normalisation, images.flip, recipe.batch_size)
    test, began = images.test.to(device.name), time.monotonic()
    for epoch in range(first, epochs):
        rate = asked.schedule.learning_rate(recipe.learning_rate, epoch)
        try:
            loss = training.train_epoch(model, optimizer, source, device, rate, (asked.compute.seed, epoch),
                                        f"epoch {epoch + 1}", teacher)
            checkpoint.check_finite(model, f"{path}: the training diverged in epoch {epoch + 1}, which is not kept; "
                                    f"begin again with a lower --learning_rate than {recipe.learning_rate:g}")
        except UserError:
            if not history:  # there is nothing to go on with
                unfinished_path(path).unlink(missing_ok=True)
            raise
        history.append(training.error_pct(model, test, normalisation, device))
        done = epoch + 1 == epochs
        checkpoint.save(path if done else unfinished_path(path), model, normalisation, epoch=epoch + 1,
                        error_history=history, **carried, **({} if done else {"optimizer": optimizer.state_dict()}))
        left = (time.monotonic() - began) / (epoch + 1 - first) * (epochs - epoch - 1)
        print(f"epoch {epoch + 1}/{epochs}  rate {rate:.4g}  loss {loss:.4f}  test error {history[-1]:.2f}%  "
              f"{left / 60:.1f} min left", flush=True)
    unfinished_path(path).unlink(missing_ok=True)
    return history[-1]


def _teacher(teaching: Optional[Teaching], network: Network, images: Dataset,
             device: Device) -> tuple[Optional[Teacher], Optional[Normalisation], dict[str, str]]:
    """(the teacher, the normalisation of its images, further keys of the checkpoint); (None, None, {}) without one."""
    if teaching is None:
        return None, None, {}
    content, model = checkpoint.open_teacher(teaching.teacher, network)
    data.check_classes(f"{teaching.teacher}", checkpoint.learned_classes(content), images)
    teacher = Teacher(device.place(model).eval().requires_grad_(False), teaching.temperature, teaching.weight)
    return teacher, checkpoint.normalisation_of(content), {"teacher_sha256": checkpoint.weights_sha256(content)}


# --- going on --------------------------------------------------------------------------------------------------

def unfinished_path(path: Path) -> Path:
    """The place of an unfinished training that will be ``path``."""
    return path.with_suffix(".unfinished.t7")


def begun_in(path: Path) -> Path:
    """The file of the training to go on with. Older versions kept an unfinished one at ``path``."""
    return unfinished_path(path) if unfinished_path(path).exists() else path


def check_replaceable(path: Path) -> None:
    """Raise UserError unless ``path`` is free or holds a finished training, which a new one may replace."""
    for file in (unfinished_path(path), path):
        saved = _trained(file) if file.exists() else None
        if saved and 0 < saved["epoch"] < saved["flags"].get("epochs", 0):
            raise UserError(f"{file}: an unfinished training ({saved['epoch']} of {saved['flags']['epochs']} epochs); "
                            "add --resume to go on, or remove it to start over")
    if path.exists():
        print(f"{path}: a finished training stands there and will be replaced at the end", flush=True)


def unfinished(path: Path, flags: Mapping[str, Any], compute: Compute,
               defaults: Mapping[str, Any]) -> tuple[Optional[Content], Compute]:
    """The checkpoint to resume (None: begin), and ``compute`` with its values where none are asked for.

    flags: as asked for now; defaults: values of flags that are newer than the checkpoint. Raises UserError if the
    checkpoint was made with other flags.
    """
    file = begun_in(path)
    if not file.exists():
        print(f"{path}: nothing to resume yet, beginning")
        return None, compute
    saved = _trained(file)
    began = {**defaults, "precision": "fp32", **saved["flags"]}  # fp32 is what an older version did
    compute = compute.as_begun(began)
    changed = changed_flags(began, {**flags, "precision": compute.precision, "threads": compute.threads}, FREE_FLAGS)
    if changed:
        raise UserError(f"{file}: cannot resume, it was made with other flags: {changed}")
    return saved, compute


def _trained(path: Path) -> Content:
    saved = checkpoint.load(path)
    if "prune_history" in saved:
        raise UserError(f"{path}: a network made by prune.py; choose another --save_file")
    return saved


def _check_same(saved: Content, path: Path, network: Network, widths: Widths, taught: Mapping[str, str],
                flags: Mapping[str, Any]) -> None:
    """Raise UserError if the data, the channels or the teacher have changed since the training began."""
    if saved["arguments"] != network.arguments:
        raise UserError(f"{path}: was trained on other data: {saved['arguments']}, now {network.arguments}")
    if saved["widths"] != widths:
        raise UserError(f"{path}: began with other channels than {flags['channels']} has now; remove one of them")
    if saved.get("teacher_sha256") != taught.get("teacher_sha256"):
        raise UserError(f"{path}: began with other weights than the teacher {flags['teacher']} has now; remove one "
                        "of them")


def _check_images(saved: Content, path: Path, images: Dataset, normalisation: Normalisation) -> None:
    """Raise UserError if the images are not those that the training began with, as far as the checkpoint tells."""
    data.check_classes(f"{path}", saved.get("classes", []), images)
    began = checkpoint.normalisation_of(saved)
    if any(abs(one - other) > 1e-6 for one, other in zip((*began.mean, *began.std),
                                                         (*normalisation.mean, *normalisation.std))):
        raise UserError(f"{path}: began with other images: their mean was {began.mean[0]:.4f}, now "
                        f"{normalisation.mean[0]:.4f}; check --data_loc")
