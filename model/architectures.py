"""The architectures by their --net name. To add one, write a file beside wideresnet.py, import and register it here.

Each module has ``describe(**arguments) -> Network``; ``FLAGS``, {an argument that is a flag: (its default, None if it
must be given; its valid values in words)}; and ``EXAMPLES``, arguments of small networks for the tests.
``network.arguments`` holds "net" and the arguments of ``describe``.
"""

import math
from collections.abc import Iterator
from typing import Optional

from model import mobilenet_v2, resnet, wideresnet
from model.description import from_dict
from model.network import Network

ARCHITECTURES = {"res": wideresnet, "resnet": resnet, "mobilenet_v2": mobilenet_v2}


def describe(net: str, **arguments) -> Network:
    """The description of an architecture; ``describe(**network.arguments)`` gives the same network again.

    Raises ValueError saying which values are valid.
    """
    if "description" in arguments:  # of no architecture: it says itself what it is
        return from_dict(arguments["description"])
    if net not in ARCHITECTURES:
        raise ValueError(f"--net={net}: expected one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[net].describe(**arguments)


def with_classes(network: Network, count: int) -> Network:
    """The network with another number of classes. Raises ValueError if the output is not one group of channels."""
    if network.arguments["num_classes"] == count:
        return network
    if "description" not in network.arguments:
        return describe(**{**network.arguments, "num_classes": count})
    (group, repeat), *others = network.tensors[network.output].channels
    if others or repeat != 1:
        raise ValueError(f"{network.short_name}: its output is no single group of channels, whose number could be "
                         "changed")
    description = network.arguments["description"]
    groups = [{**g, "width": count} if g["name"] == group else g for g in description["groups"]]
    return from_dict({**description, "groups": groups})


def has_siblings(network: Network) -> bool:
    """Whether the network's architecture comes in several widths."""
    return "width" in network.arguments


def has_depths(network: Network) -> bool:
    """Whether the network's architecture comes in several depths."""
    return "depth" in network.arguments


def narrower(network: Network, depth: Optional[int] = None) -> Iterator[Network]:
    """Yield ever smaller networks with the architecture and images of ``network``, from its width down, in steps of
    1/16.

    depth: of an architecture that comes in several. Raises ValueError saying which depths are valid, or that the
    network is of no architecture.
    """
    if not has_siblings(network):
        raise ValueError(f"{network.short_name} is of no architecture that has smaller networks")
    depths, last = {} if depth is None else {"depth": depth}, None
    widest = network.arguments["width"]
    for width in (widest, *(n / 16 for n in range(math.ceil(16 * widest) - 1, 0, -1))):
        found = describe(**{**network.arguments, **depths, "width": width})
        if found.full_widths != last:  # channels may be rounded
            last = found.full_widths
            yield found
