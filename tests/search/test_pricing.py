"""Quick sums: to the bit the plain sum over the layers, whatever lives, along every group, and in every method."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from model.architectures import describe
from tests.helpers import SMALL, TINY, TORCH_NETWORKS, TOY, TOY_WIDTHS, every_operator, toy_latency
from utils.latency import tables
from utils.latency.note import Correction
from utils.search import baselines, netadapt, pricing
from utils.search.costs import COUNTS, Cost, costs_along
from utils.search.pricing import LayerSum
from utils.search.space import Space

EVERYTHING = every_operator()


def random_table(network, seed, ties=False):
    """Numbers that no sum of floats holds exactly; ties: a thousand widths may cost the same."""
    draw = np.random.default_rng(seed)
    return {key: 1.1e-6 * (draw.integers(1, 4, t.shape) if ties else 0.01 + draw.random(t.shape))
            for key, t in network.tables.items()}


def both(network, kind, seed=0):
    """(the quick cost, the plain one)"""
    if kind in COUNTS:
        cost = COUNTS[kind](network)
        return cost, Cost({"macs": network.multiply_adds, "params": network.parameter_count}[kind], cost.unit)
    table = random_table(network, seed, kind == "ties")
    if kind == "cached":  # about half of the unpruned network's weights
        weights = {key: tables.filter_weights(t) for key, t in network.tables.items()}
        held = 0.5 * tables.latency_s(network, network.full_widths, weights)
        table = tables.corrected(network, table, Correction(1.1, 1e-9, 1e-9, held))
        found = pricing.priced(network, tables.prices(network, table), tables.memory_prices(network, table),
                               table.cached_s)
        return Cost(found), Cost(partial(tables.latency_s, network, table=table))
    return (Cost(LayerSum(network, tables.prices(network, table))),
            Cost(partial(tables.latency_s, network, table=table)))


def random_widths(network, draw):
    """Some branches gone where they may go together."""
    widths = {g.name: int(draw.integers(1, g.width + 1)) if g.prunable else g.width for g in network.groups}
    for group in (g.name for g in network.groups if g.removable):
        if draw.random() < 0.3 and network.lives({**widths, group: 0}):
            widths[group] = 0
    return widths


@pytest.mark.parametrize("kind", ["seconds", "ties", "macs", "params", "cached"])
@pytest.mark.parametrize("name", TORCH_NETWORKS)
def test_a_quick_sum_is_the_plain_one_to_the_bit(name, kind):
    network, draw, gone = TORCH_NETWORKS[name], np.random.default_rng(5), 0
    quick, plain = both(network, kind)
    for _ in range(4):
        widths = random_widths(network, draw)
        gone += 0 in widths.values()
        assert quick(widths) == plain(widths) and type(quick(widths)) is type(plain(widths))
        for group in network.groups:
            may_go = group.removable and network.lives({**widths, group.name: 0})
            choices = range(not may_go if group.prunable else group.width, group.width + 1, 1 + group.width // 9)
            found = costs_along(quick, widths, group.name, choices).tolist()
            assert found == [plain({**widths, group.name: width}) for width in choices], (widths, group)
    assert gone or not any(g.removable for g in network.groups)


def test_the_order_of_the_sum_decides():
    """One big term first, and small ones that it swallows each, but not together."""
    first, *others = TINY.priced
    prices = {name: (lambda cin, cout: 1.0 + 0 * cin) if name == first else (lambda cin, cout: 1e-16 + 0 * cin)
              for name in (first, *others)}
    total = LayerSum(TINY, prices)
    assert total(TINY.full_widths) == 1.0 < 1.0 + len(others) * 1e-16
    assert total.along(TINY.full_widths, "Conv_1_0_1", np.array([1, 2])).tolist() == [1.0, 1.0]


def test_only_what_a_change_touches_is_priced_anew():
    priced = []

    def price(name, cin, cout):
        priced.append((name, np.size(cout)))
        return cin * cout * 1.0

    total = LayerSum(SMALL, {n.name: partial(price, n.name) for n in SMALL.nodes})
    total(SMALL.full_widths)
    assert len(priced) == len(SMALL.layers(SMALL.full_widths))
    priced.clear()
    total.along(SMALL.full_widths, "Conv_2_0_1", np.arange(SMALL.full_widths["Conv_2_0_1"], 0, -1))
    assert {name for name, count in priced if count > 1} == {"Conv_2_0_1", "Conv_2_0_2"}
    assert len(priced) == 4  # and each once, alone, at the narrowest width
    priced.clear()
    assert total(SMALL.full_widths) and not priced


def test_invalid_widths_are_refused():
    quick, _ = both(TINY, "seconds")
    assert quick(TINY.full_widths) > 0
    for wrong, words in ((99, "expected 0 to 2 channels, found 99"), (-1, "found -1")):
        with pytest.raises(ValueError, match=f"Conv_1_0_1: .*{words}"):
            quick({**TINY.full_widths, "Conv_1_0_1": wrong})
        with pytest.raises(ValueError, match=f"Conv_1_0_1: .*{words}"):
            costs_along(quick, TINY.full_widths, "Conv_1_0_1", [1, wrong])
    with pytest.raises(ValueError, match="Conv_0: expected 1 to 16 channels, found 0"):
        costs_along(quick, TINY.full_widths, "Conv_0", [0, 1])
    assert costs_along(quick, TINY.full_widths, "Conv_0", []).tolist() == []
    either = replace(TOY, groups=tuple(replace(g, removable=g.name in "ab") for g in TOY.groups))
    total = LayerSum(either, {"A": lambda cin, cout: 1.0 * cout, "B": lambda cin, cout: 0.5 * cout})
    assert total.along(TOY_WIDTHS, "b", np.array([0, 2])).tolist() == [10.0, 11.0]
    with pytest.raises(ValueError, match="nothing reaches the output Y"):
        total.along({**TOY_WIDTHS, "a": 0}, "b", np.array([0, 2]))


def test_a_plain_function_is_asked_width_by_width():
    assert costs_along(toy_latency, TOY_WIDTHS, "a", [10, 1, 0]).tolist() == \
        [toy_latency({**TOY_WIDTHS, "a": a}) for a in (10, 1, 0)]
    assert costs_along(Cost(toy_latency), TOY_WIDTHS, "b", range(2, 4)).tolist() == [6.4, 6.4]


@pytest.mark.parametrize("kind", ["seconds", "ties", "macs", "params"])
@pytest.mark.parametrize("network", [SMALL, EVERYTHING], ids=["small", "everything"])
def test_proposals_are_those_of_the_plain_sum(network, kind):
    quick, plain = both(network, kind, seed=1)
    draw, some = np.random.default_rng(2), 0
    for multiple_of, reach, part in ((1, 1, 0.02), (1, 4, 0.01), (3, 1, 0.1), (2, 4, 0.05)):
        widths, space = random_widths(network, draw), Space(network, multiple_of=multiple_of)
        found, expected = (netadapt.proposals(space, widths, cost, part * plain(widths), False, reach)
                           for cost in (quick, plain))
        assert found == expected
        some += sum(p is not None for _, p in found)
    assert some > 5


# Chosen at a time when every width was priced by a sum over the whole network.
CHOSEN = {
    ("res", "seconds", 1): [3, 14, 8, 7, 15, 16, 31, 29, 10],
    ("res", "ties", 1): [3, 16, 0, 8, 0, 16, 32, 32, 10],
    ("res", "macs", 1): [3, 12, 3, 6, 15, 16, 29, 31, 10],
    ("res", "params", 3): [3, 15, 6, 6, 16, 12, 21, 27, 10],
    ("everything", "seconds", 1): [3, 8, 0, 4, 4, 0, 7, 5, 2, 3, 6, 4],
    ("everything", "ties", 2): [3, 8, 0, 5, 4, 0, 7, 5, 2, 2, 4, 4],
    ("everything", "macs", 1): [3, 4, 3, 5, 3, 3, 7, 5, 2, 3, 6, 4],
    ("everything", "params", 1): [3, 8, 3, 3, 2, 3, 6, 5, 2, 3, 6, 4],
}


@pytest.mark.parametrize("name, kind, multiple_of", CHOSEN)
def test_the_knapsack_chooses_what_it_always_chose(name, kind, multiple_of):
    network = {"res": describe("res", depth=10, width=0.5), "everything": EVERYTHING}[name]
    draw = np.random.default_rng(3)
    saliency = {g.name: draw.random(g.width).tolist() for g in network.groups if g.prunable}
    cost, _ = both(network, kind, seed=4)
    found = baselines.knapsack(Space(network, multiple_of=multiple_of), network.full_widths, cost,
                               0.6 * cost(network.full_widths), saliency)
    assert list(found.values()) == CHOSEN[name, kind, multiple_of]
    assert {type(width) for width in found.values()} == {int}
