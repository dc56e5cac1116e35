"""checkpoints/NAME.t7: a dict that ``torch.load(..., weights_only=True)`` reads and that rebuilds its own network.

    arguments      what model.architectures.describe takes            widths      {group: channels}
    state_dict     parameters and statistics by layer name            epoch       epochs trained
    error_history  test error after every epoch, % (pruned networks: held-out error after every step)
    normalisation  {"mean": [...], "std": [...]} of pixels in 0..1    flags       the command line it was made with
    holdout_prop   part of the training images that was held out; 0 where none was
    classes        class names in the order of the logits (older checkpoints: absent)
Pruned ones also: training (how train.py trained the base model, if it did), prune_history (a dict per step: group,
width, proposed_width, ...) and table_costs_history
(predicted latency after every step, seconds, the unpruned network first), test_error (%). Unfinished ones: optimizer.
Taught ones: teacher_sha256, of the teacher's weights. All: format, made_by, and sha256 of everything else (older
checkpoints: absent).
"""

import io
import math
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any, Optional

import torch

from model.architectures import describe, with_classes
from model.network import Network, Widths
from model.torch_net import TorchNet, restored
from utils.common.checksum import checked, note_without, with_checksum
from utils.common.cli import DATA_LOC, DATASET, HOLDOUT_PROP
from utils.common.errors import UserError
from utils.common.files import write_whole
from utils.common.fingerprint import sha256_of
from utils.common.provenance import check_format, stamp
from utils.learning.data import Normalisation
from utils.learning.settings import Data

FORMAT = 1
REQUIRED = {"arguments": dict, "widths": dict, "state_dict": dict, "epoch": int, "error_history": list,
            "normalisation": dict, "flags": dict, "holdout_prop": float}


def save(path: Path, model: TorchNet, normalisation: Normalisation, **more: Any) -> None:
    """Write the checkpoint of ``model``, whole; ``more`` holds the other keys listed above."""
    content = dict(more, **stamp(FORMAT), arguments=dict(model.network.arguments), widths=dict(model.widths),
                   state_dict={k: v.detach().cpu() for k, v in model.state_dict().items()},
                   normalisation={k: list(v) for k, v in asdict(normalisation).items()})
    buffer = io.BytesIO()  # torch's own file writer does not raise OSError on a full disk
    torch.save(with_checksum(content), buffer)
    write_whole(path, buffer.getvalue())


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint without executing anything in it. Raises UserError naming the file and what is wrong."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such checkpoint; train one with train.py --save_file={Path(path).stem}")
    raw = io.BytesIO(Path(path).read_bytes())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a foreign pickle, which is reported below in one line
            content = torch.load(raw, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a broken or a foreign file
        raise UserError(f"{path}: not a whole checkpoint of this project "
                        f"({type(error).__name__} while reading); restore it or train it again") from error
    whole = content
    if isinstance(content, dict):
        check_format(path, content, FORMAT)
        content = checked(path, content, "restore it or train it again")
    wrong = [k for k, kind in REQUIRED.items() if not isinstance(content, dict) or not isinstance(content.get(k), kind)]
    if not wrong and not _sound_values(content):
        wrong = ["normalisation, error_history, classes or flags"]
    if wrong:
        raise UserError(f"{path}: expected a checkpoint of this project, but {', '.join(wrong)} is missing in it or of "
                        "another type")
    note_without(path, whole)
    return content


def _sound_values(content: dict[str, Any]) -> bool:
    mean, std = (content["normalisation"].get(k) for k in ("mean", "std"))
    return (all(isinstance(v, list) and len(v) in (1, 3) and all(isinstance(x, float) for x in v) for v in (mean, std))
            and all(math.isfinite(x) for x in mean) and all(0 < x < math.inf for x in std)
            and all(isinstance(x, float) for x in content["error_history"])
            and isinstance(content.get("classes", []), list)
            and all(isinstance(name, str) for name in content.get("classes", []))
            and all(isinstance(k, str) for k in content["flags"])
            and all(isinstance(content["flags"].get(k, ""), str) for k in ("dataset", "data_loc"))
            and isinstance(content["flags"].get("epochs", 0), int))


def build(content: dict[str, Any], path: Path) -> TorchNet:
    """The network of a checkpoint, with its weights. Raises UserError where they don't fit each other."""
    try:
        model = restored(content)
    except Exception as error:  # a forged file raises many kinds
        raise UserError(f"{path}: its weights don't fit the network it names: "
                        f"{' '.join(str(error).split())[:300]}") from error
    check_finite(model, f"{path}: holds numbers that are not finite; train the network again")
    return model


def check_finite(model: TorchNet, words: str) -> None:
    """Raise UserError with these words, and the name of a parameter, if one holds a number that is not finite."""
    broken = [name for name, value in model.state_dict().items() if not torch.isfinite(value).all()]
    if broken:
        raise UserError(f"{words} ({broken[0]})")


def load_sound(path: Path) -> dict[str, Any]:
    """The content of a checkpoint whose weights fit its network. Raises UserError."""
    content = load(path)
    build(content, path)
    return content


def check_begins(network: Network, widths: Widths, content: dict[str, Any]) -> None:
    """Raise UserError unless the checkpoint holds this network with these channels, but for the number of classes."""
    try:
        given = with_classes(describe(**content["arguments"]), network.arguments["num_classes"])
    except ValueError as error:
        raise UserError(f"--init: {error}") from error
    classes = {s.group for s in network.tensors[network.output].channels}
    if (given.inputs, given.groups, given.nodes) != (network.inputs, network.groups, network.nodes):
        raise UserError(f"--init: holds a {given.title}, expected a {network.title}; leave --net, --depth, --width and "
                        "--img_size out to take its own")
    odd = [g for g, width in widths.items() if g not in classes and content["widths"].get(g) != width]
    if odd:
        raise UserError(f"--init: {odd[0]} has {content['widths'].get(odd[0])} channels there, but {widths[odd[0]]} in "
                        "--channels; leave --channels out to take its own")


def begin_with(model: TorchNet, content: dict[str, Any]) -> list[str]:
    """Give the model a checkpoint's weights, but for its classifier if the classes are others; returns the parameters
    that keep their new values."""
    state = model.state_dict()
    fitting = {name: value for name, value in content["state_dict"].items() if state[name].shape == value.shape}
    model.load_state_dict({**state, **fitting})
    return [name for name in state if name not in fitting]


def open_teacher(path: Path, network: Network) -> tuple[dict[str, Any], TorchNet]:
    """The checkpoint at ``path``, and the network in it. Raises UserError where it cannot teach ``network``."""
    content = load(path)
    model = build(content, path)
    for what in ("num_classes", "img_size"):
        if model.network.arguments.get(what) != network.arguments.get(what):
            raise UserError(f"{path}: a teacher of {what} {model.network.arguments.get(what)}, expected "
                            f"{network.arguments.get(what)} as in the data; choose another --teacher")
    taken, given = (_shape(one) for one in (model.network, network))
    if taken != given:
        raise UserError(f"{path}: a teacher of images of {taken}, expected {given} (channels, height, width); choose "
                        "another --teacher")
    return content, model


def _shape(network: Network) -> tuple[int, int, int]:
    entry = network.inputs[0]
    return (network.full_widths[entry.group], *entry.sides)


def learned_classes(content: dict[str, Any]) -> list[str]:
    """The names of the classes that the network was trained on here; [] where they are not known."""
    return content.get("classes", []) if content["epoch"] else []  # an import's are words of the user


def weights_sha256(content: dict[str, Any]) -> str:
    """The hash of the weights alone: it stays the same if the network is trained again with the same seed."""
    return sha256_of({name: value.numpy() for name, value in content["state_dict"].items()})


def data_of(content: dict[str, Any], dataset: Optional[str], data_loc: Optional[str], workers: int,
            holdout_prop: Optional[float] = None) -> Data:
    """The images that the network was trained on, unless others are asked for; a part of them is always held out."""
    flags = content["flags"]
    known = DATASET if data_loc else flags.get("dataset") or DATASET  # a folder that is named is meant
    return Data(dataset or known, data_loc or flags.get("data_loc") or DATA_LOC, workers,
                holdout_prop or content["holdout_prop"] or HOLDOUT_PROP)


def restore_optimizer(optimizer: torch.optim.Optimizer, content: dict[str, Any], path: Path) -> None:
    """Raises UserError where the optimizer's state is missing or does not fit."""
    try:
        optimizer.load_state_dict(content["optimizer"])
    except Exception as error:  # torch raises many kinds
        raise UserError(f"{path}: the optimizer's state is missing or does not fit ({type(error).__name__}); "
                        "remove the file to train again") from error


def normalisation_of(content: dict[str, Any]) -> Normalisation:
    return Normalisation(*(tuple(content["normalisation"][k]) for k in ("mean", "std")))
