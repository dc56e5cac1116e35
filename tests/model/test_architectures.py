"""Every registered architecture keeps its promises: a new one is tested here, and on its examples everywhere."""

from itertools import islice

import pytest

from model import architectures
from model.architectures import ARCHITECTURES, describe
from tests.helpers import EXAMPLES

EVERY = pytest.mark.parametrize("network", EXAMPLES, ids=[network.short_name for network in EXAMPLES])


@pytest.mark.parametrize("net", ARCHITECTURES)
def test_it_has_examples_and_they_say_its_name(net):
    assert ARCHITECTURES[net].EXAMPLES
    for arguments in ARCHITECTURES[net].EXAMPLES:
        assert describe(net, **arguments).arguments["net"] == net


@EVERY
def test_arguments_give_the_same_network_again(network):
    assert describe(**network.arguments) == network


@EVERY
def test_classes_and_pixels_are_what_is_asked_for(network):
    other = describe(**{**network.arguments, "num_classes": 7, "img_size": 40})
    assert other.inputs[0].sides == (40, 40)
    assert other.layers(other.full_widths)[-1].cout == 7


@EVERY
def test_every_layer_with_filters_has_a_table_that_holds_it(network):
    for layer in network.layers(network.full_widths):
        if layer.node.kind in ("conv", "depthwise", "linear", "add"):
            rows, columns = network.tables[layer.node.table].shape
            assert layer.cin <= rows and (columns == 1 or layer.cout <= columns)


@EVERY
def test_something_can_be_pruned_and_the_ends_cannot(network):
    prunable = {g.name for g in network.groups if g.prunable}
    assert prunable
    assert not {network.inputs[0].group, *(s.group for s in network.nodes[-1].channels)} & prunable
    one = {g.name: 1 if g.prunable else g.width for g in network.groups}
    network.check_widths(one)
    assert network.parameter_count(one) < network.parameter_count(network.full_widths)


@EVERY
def test_channel_files_bring_the_widths_back(network):
    for widths in (network.full_widths, {g.name: 1 if g.prunable else g.width for g in network.groups}):
        assert network.widths_of_channels(network.conv_channels(widths)) == widths


@EVERY
def test_narrower_ones_are_for_the_same_images_and_ever_smaller(network):
    depth = network.arguments.get("depth")
    found = list(islice(architectures.narrower(network, depth), 5))
    assert found[0] == network
    counts = [n.parameter_count(n.full_widths) for n in found]
    assert counts == sorted(counts, reverse=True) and len(set(counts)) == len(counts) > 1
    for other in found:
        assert {k: other.arguments[k] for k in ("net", "img_size", "num_classes")} == {
            k: network.arguments[k] for k in ("net", "img_size", "num_classes")}
        assert set(other.tables) <= set(network.tables)  # the grid prices them by the table of the base network


@pytest.mark.parametrize("net", ARCHITECTURES)
@pytest.mark.parametrize("wrong", [{"depth": 0}, {"depth": 10.5}, {"width": 0.0}, {"width": -1.0},
                                   {"width": float("nan")}, {"img_size": 0}, {"num_classes": 1}])
def test_wrong_arguments_are_named_with_their_flag(net, wrong):
    (flag,) = wrong
    if flag not in {**ARCHITECTURES[net].FLAGS, "img_size": 0, "num_classes": 0}:
        with pytest.raises(TypeError, match=flag):
            describe(net, **wrong)
        return
    with pytest.raises(ValueError, match=f"--{flag}="):
        describe(net, **{**ARCHITECTURES[net].EXAMPLES[0], **wrong})


def test_an_unknown_architecture_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="--net=no_such: expected one of res, resnet, mobilenet_v2"):
        describe("no_such", depth=10, width=1.0)
