"""nbr_channels/NAME.pickle: {convolution: output channels left}, 0 for a removed convolution.

Files of earlier programs are read, too. They may have pairs of input and output channels, whole floats, and the
classifier, and may leave out what was removed.
"""

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np

from model.network import Network, Widths
from model.operators import OPERATORS
from utils.common.errors import UserError
from utils.common.files import locate, write_whole
from utils.common.output import remark
from utils.common.pickles import read_pickle, to_pickle

FOLDER = "nbr_channels"
NAMED = 4  # layers in a message


@dataclass(frozen=True)
class _Channels:
    """What a file says of a layer."""

    inputs: Optional[int]  # None where the file has the outputs alone
    outputs: int


def channels_path(name: str) -> Path:
    """nbr_channels/NAME.pickle; a path stays a path."""
    return locate(name, FOLDER, ".pickle")


def write_channels(path: Path, network: Network, widths: Widths) -> None:
    write_whole(path, to_pickle(network.conv_channels(widths)))


def read_channels(path: Path, network: Network) -> dict[str, int]:
    """The widths of ``network`` that give the channels in the file. Raises UserError naming the file and the layer."""
    content = read_pickle(path)
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: expected a dict of convolution -> channels, found {type(content).__name__}")
    found = {name: _channels_of(path, name, value) for name, value in content.items()}
    try:
        widths, missing = _widths(network, {name: channels.outputs for name, channels in found.items()})
        _check_inputs(network, widths, found)
    except ValueError as error:
        raise UserError(f"{path}: {error}; expected the channels of a {network.title}: check --net, --depth and "
                        "--width") from error
    if missing:
        remark(f"note: {path}: {_named(missing)} not in the file: taken as removed; if that is wrong, check --net, "
               "--depth and --width")
    return widths


def _channels_of(path: Path, name: Any, value: Any) -> _Channels:
    plain = _plain(value)
    pair = [_plain(v) for v in plain] if isinstance(plain, (list, tuple)) and len(plain) == 2 else None
    numbers = [_whole(v) for v in pair or [plain]]
    outputs = numbers[-1]
    if not isinstance(name, str) or outputs is None or None in numbers:
        raise UserError(f"{path}: {_shown(name)}: expected a number of channels, 0 or more, or a pair of input and "
                        f"output channels, found {_shown(pair or plain)}")
    if not pair:
        return _Channels(None, outputs)
    return _Channels(numbers[0], outputs if numbers[0] else 0)  # without inputs there is no layer


def _plain(value: Any) -> Any:
    """Python's own number, or list, for one of NumPy."""
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def _whole(value: Any) -> Optional[int]:
    """The number, None where it is not whole or is negative."""
    number = int(value) if isinstance(value, float) and value.is_integer() else value
    return number if isinstance(number, int) and not isinstance(number, bool) and number >= 0 else None


def _widths(network: Network, outputs: Mapping[str, int]) -> tuple[dict[str, int], list[str]]:
    """The widths with these output channels, and the convolutions that are left out, as removed ones may be.

    Raises ValueError naming the layer that is not of this network, cannot be missing, or does not fit the others.
    """
    known = network.conv_channels(network.full_widths)
    others = {node.name for node in network.nodes if OPERATORS[node.kind].counted} - set(known)  # the data's classes
    channels = {name: count for name, count in outputs.items() if name not in others}
    for name in sorted(set(channels) - set(known)):
        raise ValueError(f"{name}: no convolution of this network")
    missing = [name for name in known if name not in channels]
    try:
        return network.widths_of_channels({**dict.fromkeys(missing, 0), **channels}), missing
    except ValueError as error:
        if not missing:
            raise
        raise ValueError(f"{', '.join(missing[:NAMED])}: missing, and what is left does not fit ({error})") from error


def _check_inputs(network: Network, widths: Widths, found: Mapping[str, _Channels]) -> None:
    """Raise ValueError naming the layer whose input channels differ from the outputs of the layers before it."""
    layers = {layer.node.name: layer for layer in network.layers(widths)}
    for name, channels in found.items():
        if channels.inputs is None or not channels.outputs:
            continue
        if name not in layers:
            raise ValueError(f"{name}: expected a number of channels, found a pair")
        if channels.inputs != layers[name].cin:
            raise ValueError(f"{name}: {channels.inputs} input channels, but the layers before it have "
                             f"{layers[name].cin}")


def _named(names: list[str]) -> str:
    """The names, or the first of many, and the verb."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more} {'is' if len(names) == 1 else 'are'}"


def _shown(value: Any) -> str:
    """The value, shortened."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python writes no integers of more than 4,300 digits
        return "a huge number"
