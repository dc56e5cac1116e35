"""Fewer blocks in every stage and one factor for all widths: stages, and the best of all choices."""

import itertools
from dataclasses import replace

import pytest

from tests.helpers import TORCH_NETWORKS, TOY, TOY_WIDTHS, in_steps, published, toy_latency
from utils.search import blocks
from utils.search.netadapt import NoWayOn
from utils.search.space import Space

STAGES = [[("Conv_1_0_1",), ("Conv_1_1_1",)], [("Conv_2_0_1",), ("Conv_2_1_1",)], [("Conv_3_0_1",), ("Conv_3_1_1",)]]


def test_the_stages_of_a_wideresnet():
    network, _ = published()
    space, full = Space(network), network.full_widths
    assert blocks.stages(space, full) == STAGES
    assert blocks.stages(space, {**full, "Conv_1_0_1": 0}) == [[("Conv_1_1_1",)], *STAGES[1:]]
    assert blocks.stages(Space(network, keep=("Conv_2_1_1",)), full) == [STAGES[0], [("Conv_2_0_1",)], STAGES[2]]


@pytest.mark.parametrize("name", TORCH_NETWORKS)
def test_a_block_goes_as_a_whole_whichever_of_its_groups_goes_first(name):
    """And nothing of a network that goes along with something larger, such as a gate, is a block."""
    network = TORCH_NETWORKS[name]
    space, full = Space(network), network.full_widths

    def left(groups):
        return {layer.node.name for layer in network.layers({**full, **dict.fromkeys(groups, 0)})}

    found = [block for stage in blocks.stages(space, full) for block in stage]
    for block in found:
        assert all(left([group]) == left(block) for group in block)
    for one, other in itertools.permutations(found, 2):
        assert not left(one) < left(other)
    removable = [g.name for g in network.groups if g.removable and space.lives({**full, g.name: 0})]
    assert bool(found) == bool(removable)


@pytest.mark.parametrize("part, counts", [(0.6, (0, 2, 2)), (0.5, (0, 1, 2)), (0.4, (0, 0, 2))])
def test_it_is_the_best_of_all_choices(part, counts):
    network, cost = published()
    full, budget_s = network.full_widths, part * cost(network.full_widths)
    found = blocks.best(Space(network), full, cost, budget_s)
    assert found == {**full, **{g: 0 for stage, count in zip(STAGES, counts) for (g,) in stage[count:]}}
    for kept in itertools.product(range(3), repeat=3):
        gone = {g: 0 for stage, count in zip(STAGES, kept) for (g,) in stage[count:]}
        for factor in range(1, 101):
            n = {**{g.name: max(round(g.width * factor / 100), 1) if g.prunable else g.width for g in network.groups},
                 **gone}
            assert cost(n) > budget_s or network.parameter_count(n) <= network.parameter_count(found)


@pytest.mark.parametrize("name", TORCH_NETWORKS)
def test_every_network_keeps_its_rules(name):
    network = TORCH_NETWORKS[name]
    cost, full = in_steps(network, seed=3), network.full_widths
    kept = next(n.name for n in network.nodes if any(network.group[s.group].prunable for s in n.channels))
    space = Space(network, (kept,), 2)
    found = blocks.best(space, full, cost, 0.7 * cost(full))
    assert cost(found) <= 0.7 * cost(full) and network.lives(found)
    assert all(w % 2 == 0 or w == full[g] for g, w in found.items())
    assert all(found[g.name] == g.width for g in space.groups if not g.prunable)
    with pytest.raises(NoWayOn, match="--method=blocks: .* lower --pruning_fact"):
        blocks.best(space, full, cost, 0.0)


def test_where_the_blocks_may_not_all_go():
    """Two branches without a skip: one of them has to stay."""
    space = Space(replace(TOY, groups=tuple(replace(g, removable=g.name in "ab") for g in TOY.groups)))
    assert blocks.stages(space, TOY_WIDTHS)
    found = blocks.best(space, TOY_WIDTHS, toy_latency, 6.0)
    assert toy_latency(found) <= 6.0 and space.lives(found)
    with pytest.raises(NoWayOn, match="--method=blocks: the least predicted latency is"):
        blocks.best(space, TOY_WIDTHS, toy_latency, 1e-3)


def test_of_very_many_choices_some_are_left_out(monkeypatch):
    network, cost = published()
    full = network.full_widths
    assert len(blocks._choices(Space(network), full)) == 27
    monkeypatch.setattr(blocks, "MOST_CHOICES", 12)
    some = blocks._choices(Space(network), full)
    assert len(some) == 12 and {} in some
    found = blocks.best(Space(network), full, cost, 0.6 * cost(full))
    assert cost(found) <= 0.6 * cost(full)
