"""The architectures by their --net name. To add one, write a file beside wideresnet.py, import and register it here.

Each module has ``describe(**arguments) -> Network``; ``FLAGS``, {an argument that is a flag: (its default, None if it
must be given; its valid values in words)}; and ``EXAMPLES``, arguments of small networks for the tests.
``network.arguments`` holds "net" and the arguments of ``describe``.
"""

from collections.abc import Iterator

from model import resnet, wideresnet
from model.description import from_dict
from model.network import Network

ARCHITECTURES = {"res": wideresnet, "resnet": resnet}


def describe(net: str, **arguments) -> Network:
    """The description of an architecture; ``describe(**network.arguments)`` gives the same network again.

    Raises ValueError saying which values are valid.
    """
    if "description" in arguments:  # of no architecture: it says itself what it is
        return from_dict(arguments["description"])
    if net not in ARCHITECTURES:
        raise ValueError(f"--net={net}: expected one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[net].describe(**arguments)


def narrower(network: Network, depth: int) -> Iterator[Network]:
    """Yield networks of this depth, with the architecture and images of ``network``, from its width down, in steps of
    1/16. Raises ValueError saying which depths are valid."""
    for sixteenths in range(int(16 * network.arguments["width"]), 0, -1):
        yield describe(**{**network.arguments, "depth": depth, "width": sixteenths / 16})
