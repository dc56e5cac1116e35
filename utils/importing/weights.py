"""Weights for a module from a file, read without executing anything in it, and under their names in our description."""

import pickle
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from model.torch_net import TorchNet
from model.traced import Described
from utils.common.errors import UserError, first_line

WRAPPED_IN = ("state_dict", "model_state_dict", "model", "net", "network", "weights",
              "module")  # keys around a state dict
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.")
SHOWN = 5  # names in a message

AnyNet = TypeVar("AnyNet", bound=TorchNet)
State = Mapping[str, Tensor]


def load_into(module: nn.Module, path: Path) -> list[str]:
    """Put the weights of a state dict (.pth, .pt or .safetensors) into the module; returns the names left out.

    Names may have been wrapped, as by DataParallel (``module.``) or torch.compile (``_orig_mod.``). Raises UserError
    naming the file where weights are missing, or of another shape.
    """
    wanted = module.state_dict()
    lazy = [name for name, value in wanted.items() if is_lazy(value)]
    if lazy:
        raise UserError(f"{path}: {lazy[0]} of the module is lazy, of no shape before its first use; give its layer "
                        "the number of inputs")
    found = _unwrapped(_read(path), wanted)
    missing = [name for name in wanted if name not in found and not name.endswith("num_batches_tracked")]
    if missing:
        raise UserError(f"{path}: {len(missing)} of the module's {len(wanted)} weights are missing: {some(missing)}; "
                        f"the file has {some(list(found))}. Check --model and --model_args")
    for name, value in wanted.items():
        if name in found and found[name].shape != value.shape:
            raise UserError(f"{path}: {name} is of shape {list(found[name].shape)}, but the module's is "
                            f"{list(value.shape)}; check --model and --model_args (the number of classes, say)")
    broken = [name for name in wanted if name in found and not torch.isfinite(found[name]).all()]
    if broken:
        raise UserError(f"{path}: {broken[0]} holds numbers that are not finite; train the network again")
    module.load_state_dict({name: found.get(name, value) for name, value in wanted.items()})
    return [name for name in found if name not in wanted]


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}; expected a state dict, .pth, .pt "
                        "or .safetensors")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file
        try:
            return load_file(path)
        except (SafetensorError, ValueError, TypeError) as error:
            raise UserError(f"{path}: not a whole safetensors file ({first_line(error)[:200]}); copy it "
                            "again") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a foreign pickle, which is reported below in one line
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a broken or a foreign file
        if not isinstance(error, pickle.UnpicklingError) or not _is_pickle(path):
            raise UserError(f"{path}: not a whole state dict ({type(error).__name__} while reading); copy it "
                            "again") from error
        raise UserError(f"{path}: holds more than weights (a whole module, or objects of somebody's code), and such "
                        "files can execute code; save module.state_dict() alone") from error
    return _state_in(content, path)


def _is_pickle(path: Path) -> bool:
    """Whether the file begins as torch's zip archives or older pickles do."""
    with path.open("rb") as file:
        return file.read(4).startswith((b"PK", b"\x80"))


def _state_in(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict, from among the other things that trainings save."""
    while isinstance(content, dict) and not _is_state(content):
        content = next((content[key] for key in WRAPPED_IN if isinstance(content.get(key), dict)), None)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a state dict, {{name: tensor}}, alone or under one of "
                        f"{', '.join(WRAPPED_IN)}")
    return {name: value for name, value in content.items() if isinstance(value, Tensor)}


def _is_state(content: Mapping[Any, Any]) -> bool:
    tensors = sum(isinstance(value, Tensor) for value in content.values())
    return bool(content) and all(isinstance(name, str) for name in content) and 2 * tensors > len(content)


def _unwrapped(found: dict[str, Tensor], wanted: State) -> dict[str, Tensor]:
    """With prefixes taken off, as long as that gives more of the names that are wanted."""
    def known(names: Mapping[str, Any]) -> int:
        return sum(name in wanted for name in names)

    while True:
        tries = [{name.removeprefix(prefix): v for name, v in found.items()} for prefix in PREFIXES]
        tries.append({name.replace("._orig_mod.", "."): v for name, v in found.items()})
        best = max(tries, key=known)
        if known(best) <= known(found):
            if known(found) or not any(prefix == name[:len(prefix)] for name in found for prefix in PREFIXES[:2]):
                return found
            best = tries[0] if any(name.startswith(PREFIXES[0]) for name in found) else tries[1]
        found = best


def some(names: Sequence[str]) -> str:
    """The first of these, and how many more there are."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def with_weights(kind: type[AnyNet], described: Described, state: State) -> AnyNet:
    """The description's network with the user's parameters and statistics, in eval mode, which it shares where their
    channels lie as the user's do. A batch norm that had no scale and shift gets ones and zeros."""
    network = described.network
    with torch.device("meta"):  # nothing is initialised
        model = kind(network, network.full_widths)
    found = {}
    for name, value in model.state_dict().items():
        if name in state:
            if state[name].numel() != value.numel():
                raise UserError(f"{name}: of shape {list(state[name].shape)}, where the groups of its channels give "
                                f"{list(value.shape)}: grouped convolutions that divide the same channels differently")
            given = state[name].detach().reshape(value.shape)
            for axis, order in described.orders.get(name, {}).items():
                given = given.index_select(axis, torch.from_numpy(order))
            found[name] = given if given.is_floating_point() else given.clone()  # counters count on in place
        else:
            layer = name.rpartition(".")[0]
            if f"{layer}.running_mean" not in state and f"{layer}.weight" not in state:
                raise UserError(f"{name}: a constant that is not in the module's state dict; register it as a buffer, "
                                "or "
                                "make it a parameter")
            fill = torch.ones if name.endswith(".weight") else torch.zeros
            found[name] = fill(value.shape, dtype=next(iter(state.values())).dtype if value.is_floating_point()
                               else value.dtype)
    model.load_state_dict(found, assign=True)
    return model.eval()
