"""The architectures by the name given to --net. A new one is a new file beside wideresnet.py and its name here, twice.

Each module has ``describe(**arguments) -> Network``; ``narrower(network, depth)``, which yields networks for the same
images from the width of ``network`` down; and ``EXAMPLES``, arguments of small networks, on which the tests run.
``network.arguments`` holds "net" and the arguments of ``describe``.
"""

from collections.abc import Iterator

from model import wideresnet
from model.network import Network

ARCHITECTURES = {"res": wideresnet}


def describe(net: str, **arguments) -> Network:
    """The description of an architecture; ``describe(**network.arguments)`` gives the same network again.

    Raises ValueError saying which values are valid.
    """
    if net not in ARCHITECTURES:
        raise ValueError(f"--net={net}: expected one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[net].describe(**arguments)


def narrower(network: Network, depth: int) -> Iterator[Network]:
    """Networks of the architecture of ``network``, for the same images, of this depth, from its width down.

    Raises ValueError saying which depths are valid.
    """
    return ARCHITECTURES[network.arguments["net"]].narrower(network, depth)
