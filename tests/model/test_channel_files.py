"""The channels of every network that pruning can leave lead back to that network."""

import pytest

from tests.helpers import NETWORKS
from utils.latency.correction import judging_networks


def shapes(network, widths):
    return [(layer.node.name, layer.inputs, layer.cin, layer.cout) for layer in network.layers(widths)]


@pytest.mark.parametrize("name", NETWORKS)
def test_channels_lead_back_to_the_network(name):
    """A group that lies behind a removed one is dead, whatever its own width."""
    network = NETWORKS[name]
    single = [{**network.full_widths, g.name: 0} for g in network.groups if g.removable]
    for widths in [w for w in single if network.lives(w)] + judging_networks(network, 20, 3):
        channels = network.conv_channels(widths)
        found = network.widths_of_channels(channels)
        assert network.conv_channels(found) == channels and shapes(network, found) == shapes(network, widths)
