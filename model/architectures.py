"""The architectures by the name given to --net. A new one is a new file beside wideresnet.py and a line here."""

from model import wideresnet
from model.network import Network

ARCHITECTURES = {"res": wideresnet.describe}


def describe(net: str, **arguments) -> Network:
    """The description of an architecture; ``describe(**network.arguments)`` gives the same network again.

    Raises ValueError saying which values are valid.
    """
    if net not in ARCHITECTURES:
        raise ValueError(f"--net={net}: expected one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[net](**arguments)
