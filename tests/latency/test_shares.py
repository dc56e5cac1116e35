"""Where the latency goes: what layers and operators cost, and that nothing of the sum is lost."""

import random

import numpy as np
import pytest

from model.description import as_dict, from_dict
from tests.helpers import TORCH_NETWORKS, arithmetic_table, depthwise_network, every_operator
from utils.common.errors import UserError
from utils.latency import shares
from utils.latency.shares import LayerTime
from utils.latency.tables import by_layer, latency_s
from utils.latency.words import table_in_words

DEPTHWISE = depthwise_network()  # six layers with a table, and a branch that may go


def random_widths(network, generator):
    widths = {g.name: generator.randint(1, g.width) if g.prunable else g.width for g in network.groups}
    for group in (g.name for g in network.groups if g.removable):
        if generator.random() < 0.5 and network.lives({**widths, group: 0}):
            widths[group] = 0
    return widths


@pytest.mark.parametrize("name", TORCH_NETWORKS)
def test_the_layers_sum_to_the_latency(name):
    network, generator = TORCH_NETWORKS[name], random.Random(0)
    table = arithmetic_table(network)
    for widths in (network.full_widths, *(random_widths(network, generator) for _ in range(5))):
        layers = by_layer(network, widths, table)
        assert [layer for layer, _ in layers] == list(network.layers(widths))
        assert sum(seconds for _, seconds in layers) == pytest.approx(latency_s(network, widths, table), rel=1e-12)
        before, after = shares.total_s(shares.layer_times(network, widths, table))
        assert before == pytest.approx(latency_s(network, network.full_widths, table), rel=1e-12)
        assert after == pytest.approx(latency_s(network, widths, table), rel=1e-12)


def flat_table(**seconds):
    """Of DEPTHWISE, where an operator costs the same at every width."""
    return {key: np.full(DEPTHWISE.tables[key].shape, s) for key, s in seconds.items()}


FLAT = flat_table(stem=1.0, depth=2.0, expand=3.0, filter=4.0, project=5.0, join=6.0, classes=7.0)


def test_a_removed_branch_takes_its_layers_along():
    times = shares.layer_times(DEPTHWISE, dict(DEPTHWISE.full_widths, expanded=0), FLAT)
    assert times == [LayerTime("Stem", "3×3 convolution", (6, 6), 1, 1),
                     LayerTime("Depth", "3×3 depthwise convolution", (6, 6), 2, 2),
                     LayerTime("Expand", "1×1 convolution", (6, 6), 3, None),
                     LayerTime("Filter", "3×3 depthwise convolution", (6, 6), 4, None),
                     LayerTime("Project", "1×1 convolution", (6, 6), 5, None),
                     LayerTime("Join", "addition", (6, 6), 6, None),
                     LayerTime("Classes", "linear layer", (1, 1), 7, 7)]
    assert shares.total_s(times) == (28, 10)
    assert {sides: len(group) for sides, group in shares.by_map(times).items()} == {(6, 6): 6, (1, 1): 1}
    shown, others = shares.split(times, 2)
    assert [t.name for t in shown] == ["Join", "Classes"]
    assert [t.name for t in others] == ["Stem", "Depth", "Expand", "Filter", "Project"]


def test_a_table_without_additions_has_no_such_layers():
    free = {key: array for key, array in FLAT.items() if key != "join"}
    times = shares.layer_times(DEPTHWISE, DEPTHWISE.full_widths, free)
    assert [t.name for t in times] == ["Stem", "Depth", "Expand", "Filter", "Project", "Classes"]


def test_operators_cost_their_share_of_the_notes_network():
    network = from_dict(as_dict(every_operator(), "mine"))
    key = "conv_1x1_same_at_6x5"  # of a single layer, as are the others but for two keys
    table = {k: np.full(t.shape, 1.0) for k, t in network.tables.items()}
    found = shares.costs(table, {"network": network.arguments, "correction": {"factor": 2, "overhead_s": 0.5}})
    assert found.network == network and found.seconds[key] == 2 * 0.5
    assert found.seconds["linear_to4_at_1x1"] == 2  # the last layer keeps its overhead
    assert sum(found.seconds.values()) == len(network.priced) + 1
    assert found.words(key) == f"{1 / (len(network.priced) + 1):.1%} of the latency"


@pytest.mark.parametrize("note", [{}, {"network": "mine"}, {"network": {"net": "res", "depth": "x"}},
                                  {"network": {"net": "res", "depth": 10, "width": 0.25}}])
def test_without_its_network_an_operator_costs_its_largest_entry(note):
    found = shares.costs({"a": np.array([[1e-6, 3e-6]]), "b": np.array([[0.02]])}, note)
    assert found.network is None and found.seconds == {"a": 3e-6, "b": 0.02}
    assert [found.words(key) for key in "ab"] == ["up to 3 µs", "up to 20 ms"]


def test_operators_are_chosen_by_cost_or_by_pattern():
    assert shares.costliest({"a": 1, "b": 3, "c": 2}, 2) == ["b", "c"]
    keys = ["conv_1", "conv_2", "add_2", "odd[1]", "e", "f"]
    assert shares.matching(keys, ["add_2", "conv*"]) == ["conv_1", "conv_2", "add_2"]
    assert shares.matching(keys, ["odd[1]"]) == ["odd[1]"]
    with pytest.raises(UserError, match=r"--operator=Conv\*: matches no operator of the table; it has conv_1, conv_2, "
                                        r"add_2, odd\[1\], e and 1 more"):
        shares.matching(keys, ["add_2", "Conv*"])


def test_operators_in_words():
    words = {key: table_in_words(table) for key, table in every_operator().tables.items()}
    assert len(set(words.values())) == len(words)
    assert [words[key] for key in (
        "conv_3x3_same_from3_at_12x10_relu", "conv_3x3_d2_p2_groups_2to3_at_12x10_hard_swish",
        "conv_3x1_s2_p1.1.0.0_at_12x10", "add_3_at_6x5_relu", "multiply_by_gate_at_6x5", "multiply_at_6x5",
        "adaptive_max_pool_to3x1_at_3x3", "average_pool_2x2_s2_ceil_without_padding_at_6x5", "linear_to4_at_1x1")] == [
        "3×3 convolution, SAME padding, from 3 channels, at 12×10, ReLU",
        "3×3 convolution, dilation 2, padding 2, groups of 2 to 3 channels, at 12×10, hard swish",
        "3×1 convolution, stride 2, padding 1/1/0/0, at 12×10", "addition of 3, at 6×5, ReLU",
        "product by a gate, at 6×5", "product, at 6×5", "adaptive max pool, to 3×1, at 3×3",
        "2×2 average pool, stride 2, sides rounded up, padding not counted, at 6×5",
        "linear layer, to 4 channels, at 1×1"]
    assert [table_in_words(t) for t in DEPTHWISE.tables.values()] == list(DEPTHWISE.tables)  # it has names of its own
