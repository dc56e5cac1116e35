"""The channels of every network that pruning can leave lead back to that network."""

import pytest

from model.network import Group, Input, Network
from model.operators import Node, units
from tests.helpers import NETWORKS, every_operator
from utils.latency.correction import judging_networks

# a branch whose first convolution cannot be removed by itself: nothing reads it where the second one is gone
BRANCHED = Network(
    {"net": "branched"}, (Input("image", "image", 8),),
    (Group("image", 3, prunable=False), Group("stream", 8), Group("first", 6), Group("second", 5, removable=True),
     Group("classes", 4, prunable=False)),
    (Node("stem", "conv", ("image",), units("stream"), kernel=3),
     Node("a", "conv", ("stem",), units("first"), kernel=3), Node("b", "conv", ("a",), units("second"), kernel=3),
     Node("joined", "concat", ("stem", "b")), Node("mean", "adaptive_average_pool", ("joined",)),
     Node("classes", "conv", ("mean",), units("classes"))))


def shapes(network, widths):
    return [(layer.node.name, layer.inputs, layer.cin, layer.cout) for layer in network.layers(widths)]


@pytest.mark.parametrize("name", [*NETWORKS, "branched", "every operator"])
def test_channels_lead_back_to_the_network(name):
    """A group that only a removed one reads is dead, whatever its own width."""
    network = {**NETWORKS, "branched": BRANCHED, "every operator": every_operator()}[name]
    single = [{**network.full_widths, g.name: 0} for g in network.groups if g.removable]
    for widths in [w for w in single if network.lives(w)] + judging_networks(network, 20, 3):
        channels = network.conv_channels(widths)
        found = network.widths_of_channels(channels)
        assert network.conv_channels(found) == channels and shapes(network, found) == shapes(network, widths)
