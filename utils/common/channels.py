"""nbr_channels/NAME.pickle: {convolution: output channels left}, 0 for a removed convolution."""

from pathlib import Path

import numpy as np

from model.network import Network, Widths
from utils.common.errors import UserError
from utils.common.files import locate, write_whole
from utils.common.pickles import read_pickle, to_pickle

FOLDER = "nbr_channels"


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
    for name, count in content.items():
        number = isinstance(count, (int, np.integer)) and not isinstance(count, bool)
        if not isinstance(name, str) or not number or count < 0:
            raise UserError(f"{path}: {name!r}: expected a number of channels, 0 or more, found {count!r}")
    try:
        return network.widths_of_channels({name: int(count) for name, count in content.items()})
    except ValueError as error:
        raise UserError(f"{path}: {error}; expected the channels of a {network.title}: check --net, --depth and "
                        "--width") from error
