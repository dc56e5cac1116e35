"""checkpoints/NAME.t7: a dict that ``torch.load(..., weights_only=True)`` reads and that rebuilds its own network.

    arguments      what model.architectures.describe takes            widths      {group: channels}
    state_dict     parameters and statistics by layer name            epoch       epochs trained
    error_history  test error after every epoch, % (pruned networks: held-out error after every step)
    normalisation  {"mean": [...], "std": [...]} of pixels in 0..1    flags       the command line it was made with
    holdout_prop   part of the training images that was held out; 0 where none was
    classes        class names in the order of the logits (older checkpoints: absent)
Pruned ones also: prune_history (a dict per step: group, width, proposed_width, ...) and table_costs_history
(predicted latency after every step, seconds, the unpruned network first), test_error (%). Unfinished ones: optimizer. Taught ones:
teacher_sha256, of the teacher's weights.
"""

import hashlib
import io
import math
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict

import torch

from model.architectures import describe
from model.torch_net import TorchNet
from utils.data import Normalisation
from utils.errors import UserError
from utils.files import write_whole

REQUIRED = {"arguments": dict, "widths": dict, "state_dict": dict, "epoch": int, "error_history": list,
            "normalisation": dict, "flags": dict, "holdout_prop": float}


def save(path: Path, model: TorchNet, normalisation: Normalisation, **more: Any) -> None:
    """Write the checkpoint of ``model``, whole; ``more`` holds the other keys listed above."""
    content = dict(more, arguments=dict(model.network.arguments), widths=dict(model.widths),
                   state_dict={k: v.detach().cpu() for k, v in model.state_dict().items()},
                   normalisation={k: list(v) for k, v in asdict(normalisation).items()})
    buffer = io.BytesIO()  # torch's own file writer does not raise OSError on a full disk
    torch.save(content, buffer)
    write_whole(path, buffer.getvalue())


def load(path: Path) -> Dict[str, Any]:
    """Read a checkpoint without executing anything in it. Raises UserError naming the file and what is wrong."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such checkpoint; train one with train.py --save_file={Path(path).stem}")
    raw = io.BytesIO(Path(path).read_bytes())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a foreign pickle: what is wrong is said below, in one line
            content = torch.load(raw, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a broken or a foreign file
        raise UserError(f"{path}: not a whole checkpoint of this project "
                        f"({type(error).__name__} while reading); restore it or train it again") from error
    wrong = [k for k, kind in REQUIRED.items() if not isinstance(content, dict) or not isinstance(content.get(k), kind)]
    if not wrong and not _sound_values(content):
        wrong = ["normalisation, error_history, classes or flags"]
    if wrong:
        raise UserError(f"{path}: expected a checkpoint of this project, but {', '.join(wrong)} is missing in it or of "
                        "another type")
    return content


def _sound_values(content: Dict[str, Any]) -> bool:
    mean, std = (content["normalisation"].get(k) for k in ("mean", "std"))
    return (all(isinstance(v, list) and len(v) == 3 and all(isinstance(x, float) for x in v) for v in (mean, std))
            and all(math.isfinite(x) for x in mean) and all(0 < x < math.inf for x in std)
            and all(isinstance(x, float) for x in content["error_history"])
            and isinstance(content.get("classes", []), list)
            and all(isinstance(name, str) for name in content.get("classes", []))
            and all(isinstance(k, str) for k in content["flags"])
            and all(isinstance(content["flags"].get(k, ""), str) for k in ("dataset", "data_loc"))
            and isinstance(content["flags"].get("epochs", 0), int))


def build(content: Dict[str, Any], path: Path) -> TorchNet:
    """The network of a checkpoint, with its weights. Raises UserError where they don't fit each other."""
    try:
        network = describe(**content["arguments"])
        model = TorchNet(network, content["widths"])
        model.load_state_dict(content["state_dict"])
    except Exception as error:  # a forged file raises many kinds
        raise UserError(f"{path}: its weights don't fit the network it names: "
                        f"{' '.join(str(error).split())[:300]}") from error
    broken = [name for name, value in model.state_dict().items() if not torch.isfinite(value).all()]
    if broken:
        raise UserError(f"{path}: {broken[0]} holds numbers that are not finite; train the network again")
    return model


def weights_sha256(content: Dict[str, Any]) -> str:
    """Of the weights alone: the same network trained again, with the same seed, has the same."""
    found = hashlib.sha256()
    for name, value in sorted(content["state_dict"].items()):
        found.update(f"{name} {tuple(value.shape)} ".encode() + value.numpy().tobytes())
    return found.hexdigest()


def flags_of(args) -> Dict[str, Any]:
    """The command line, for the checkpoint: --resume makes no difference to what it made."""
    return {k: v for k, v in vars(args).items() if k != "resume"}


def data_flags(content: Dict[str, Any]) -> Dict[str, str]:
    """--dataset and --data_loc that the network was trained with."""
    return {flag: content["flags"].get(flag) or default
            for flag, default in (("dataset", "cifar10"), ("data_loc", "~/Documents/CIFAR-10"))}


def restore_optimizer(optimizer: torch.optim.Optimizer, content: Dict[str, Any], path: Path) -> None:
    """Raises UserError where the optimizer's state is missing or does not fit."""
    try:
        optimizer.load_state_dict(content["optimizer"])
    except Exception as error:  # torch raises many kinds
        raise UserError(f"{path}: the optimizer's state is missing or does not fit ({type(error).__name__}); "
                        "remove the file to train again") from error


def normalisation_of(content: Dict[str, Any]) -> Normalisation:
    return Normalisation(*(tuple(content["normalisation"][k]) for k in ("mean", "std")))
