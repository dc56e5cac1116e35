"""Trading channels at equal latency: what a neighbour is, and whom the judge sees; its networks are never trained."""

import math
from dataclasses import replace

import numpy as np
import pytest

from model.network import Group, Input, Network
from model.operators import Node, units
from tests.helpers import TORCH_NETWORKS, TOY, TOY_WIDTHS, in_steps, published, toy_latency
from utils.search import baselines, trade
from utils.search.costs import COUNTS
from utils.search.knapsack import ChannelWorth, Knapsack, MeanWorth, climbed, fitted
from utils.search.netadapt import NoWayOn
from utils.search.space import Space

GROUPS = ("Conv_0", "Conv_1_0_1", "Conv_1_0_2", "Conv_1_1_1", "Conv_2_0_1", "Conv_2_0_2", "Conv_2_1_1", "Conv_3_0_1",
          "Conv_3_0_2", "Conv_3_1_1")


def asked(part, floor=0.25, **space):
    """The comparison's network, to be brought to this part of its latency."""
    network, cost = published()
    return Space(network, floor=floor, **space), network.full_widths, cost, part * cost(network.full_widths)


def widths_of(space, *values):
    return {**space.network.full_widths, **dict(zip(GROUPS, values))}


def test_what_is_too_slow_gets_narrower_where_least_worth_is_lost_per_second():
    sack = Knapsack("trade", Space(TOY), TOY_WIDTHS, toy_latency, 6.0,
                    ChannelWorth({"a": [1.0] * 10, "b": [0.1] * 10}), ("a", "b"))
    assert fitted(sack, TOY_WIDTHS) == {**TOY_WIDTHS, "b": 0}  # b: 1 of worth and 6 s, or 0.2 of worth and 1.2 s
    assert fitted(sack, {**TOY_WIDTHS, "b": 0}) == {**TOY_WIDTHS, "b": 0}
    alone = Knapsack("trade", Space(TOY), TOY_WIDTHS, toy_latency, 6.0, sack.worth, ("a",))
    assert fitted(alone, {**TOY_WIDTHS, "b": 8}) == {**TOY_WIDTHS, "a": 3, "b": 8}
    assert fitted(alone, TOY_WIDTHS) is None  # b alone takes 6 s, and one channel of a more


def test_the_geometric_mean_of_two_counts_is_the_same_along_a_group():
    counts = COUNTS["params"](TOY), COUNTS["macs"](TOY)
    worth = MeanWorth(counts)
    assert worth(TOY_WIDTHS) == math.sqrt(TOY.parameter_count(TOY_WIDTHS) * TOY.multiply_adds(TOY_WIDTHS))
    assert worth.along(TOY_WIDTHS, "b", np.array([0, 3, 10])).tolist() == [
        worth({**TOY_WIDTHS, "b": width}) for width in (0, 3, 10)]


def test_more_parameters_are_worth_some_loss():
    assert trade.figure(1.0, 1) == 1.0
    assert trade.figure(1.0, 1000) - trade.figure(1.0, 2000) == pytest.approx(0.12 * math.log(2))
    assert trade.figure(math.inf, 1000) == math.inf
    assert trade.figure(1.0, 1000, 0.25) - trade.figure(1.0, 2000, 0.25) == pytest.approx(0.25 * math.log(2))


# Either path to the sum may go, and both where its reader goes, too: then "d" cannot come back by itself.
SUMMED = Network({"net": "summed"}, (Input("image", "image", 8),),
                 (Group("image", 3, prunable=False), Group("s", 8), Group("a", 8, removable=True),
                  Group("c", 8, removable=True), Group("t", 8), Group("d", 8, removable=True), Group("g", 8),
                  Group("classes", 4, prunable=False)),
                 (Node("stem", "conv", ("image",), units("s"), kernel=3),
                  Node("a_in", "conv", ("stem",), units("a"), kernel=3),
                  Node("a_out", "conv", ("a_in",), units("t"), kernel=3),
                  Node("c_in", "conv", ("stem",), units("c"), kernel=3),
                  Node("c_out", "conv", ("c_in",), units("t"), kernel=3),
                  Node("sum", "add", ("a_out", "c_out")),
                  Node("d", "conv", ("sum",), units("d"), kernel=3),
                  Node("g", "conv", ("stem",), units("g"), kernel=1),
                  Node("both", "concat", ("d", "g")), Node("pool", "pool", ("both",)),
                  Node("classes", "linear", ("pool",), units("classes"), bias=True)))


@pytest.mark.parametrize("part", np.linspace(0.02, 0.9, 23).tolist())
def test_what_needs_another_group_does_not_come_back_without_it(part):
    space, full, cost = Space(SUMMED), SUMMED.full_widths, COUNTS["macs"](SUMMED)
    assert space.lives({**full, "a": 0, "c": 0, "d": 0}) and not space.lives({**full, "a": 0, "c": 0})
    budget = part * cost(full)
    found = trade.first(space, full, cost, budget)
    sacks = trade.problems(space, full, cost, budget)
    found += list(trade.neighbours(sacks, found[0])) + [fitted(sack, full) for sack in sacks]
    assert all(space.lives(w) and cost(w) <= budget for w in found if w)


def test_no_trade_is_tried_that_does_not_live():
    """Each half of it would: "a" may go while "d" is gone, and "d" come back while "a" is there."""
    *nodes, both, pool, classes = SUMMED.nodes
    more = (Node("e", "conv", ("a_in",), units("g"), kernel=3),  # so that "a" costs something without "d", too
            Node("g_and_e", "add", ("g", "e")))
    network = replace(SUMMED, nodes=(*nodes, *more, replace(both, inputs=("d", "g_and_e")), pool, classes))
    cost, begin = COUNTS["macs"](network), {**network.full_widths, "c": 0, "d": 0}
    sack = Knapsack("trade", Space(network), network.full_widths, cost, cost(begin) + 5000,
                    ChannelWorth({"a": [1.0] * 8, "d": [9.0] * 8}), ("a", "d"))
    assert sack.choices(begin, "a")[0] == 0 and sack.choices(begin, "d")[-1] == 8
    assert not sack.space.lives({**begin, "a": 0, "d": 8})
    traded = climbed(sack, begin)
    assert sack.space.lives(traded) and cost(traded) <= sack.budget_s and traded["d"] > 0 < traded["a"]


def test_the_mean_of_large_counts_does_not_overflow():
    class Count:  # of a network with 645 million parameters and 127 billion multiply-adds
        def __init__(self, each):
            self.each = each

        def __call__(self, widths):
            return self.each * widths["b"]


    worth = MeanWorth((Count(645_000_000), Count(127_000_000_000)))
    choices = np.arange(11)
    assert worth.along(TOY_WIDTHS, "b", choices).tolist() == [worth({**TOY_WIDTHS, "b": n}) for n in choices.tolist()]


@pytest.mark.parametrize("part", [0.6, 0.4])
def test_neighbours_spend_what_a_change_frees(part):
    """None is a part of the network, none is too slow, and to none a channel can be given back."""
    space, full, cost, budget_s = asked(part)
    begin = trade.first(space, full, cost, budget_s)[0]
    found = list(trade.neighbours(trade.problems(space, full, cost, budget_s), begin))
    assert len(found) > 40
    for network in found:
        assert cost(network) <= budget_s and any(network[g] > begin[g] for g in GROUPS)
        changed = [g for g in GROUPS if network[g] != begin[g]]
        more = [{**network, g: w} for g in GROUPS for w in range(network[g] + 1, full[g] + 1)]
        assert {g for m in more for g in GROUPS if cost(m) <= budget_s and m[g] != network[g]} <= {*changed}


def test_a_thin_branch_is_dropped_and_what_it_cost_is_spent():
    """The network that NetAdapt ends with at 60%, which has a branch of 5 channels, and the one in its place."""
    space, full, cost, budget_s = asked(0.4)
    thin = widths_of(space, 5, 5, 16, 0, 16, 32, 0, 64, 64, 32)
    spent = widths_of(space, 16, 0, 16, 0, 16, 32, 0, 64, 64, 64)
    assert cost(thin) <= budget_s and cost(spent) <= budget_s
    without = [n for n in trade.neighbours(trade.problems(space, full, cost, budget_s), thin) if not n["Conv_1_0_1"]]
    assert max(map(space.network.parameter_count, without)) >= space.network.parameter_count(spent)


def test_the_judge_leads_to_what_it_likes_and_sees_no_network_twice():
    """It likes a wide first branch of stage 2, which the network with the most parameters lacks: a group comes back."""
    space, full, cost, budget_s = asked(0.4)
    seen = []

    def judge(networks):
        seen.extend(networks)
        assert len(networks) <= trade.JUDGED
        return [-float(n["Conv_2_0_1"] * n["Conv_3_0_2"] * n["Conv_3_1_1"]) for n in networks]

    found = trade.search(space, full, cost, budget_s, judge)
    assert [first["Conv_2_0_1"] for first in trade.first(space, full, cost, budget_s)] == [0, 0, 32]
    assert [found[g] for g in GROUPS] == [2, 0, 8, 0, 32, 32, 0, 64, 64, 64] and cost(found) <= budget_s
    assert len({tuple(n.items()) for n in seen}) == len(seen) and len(seen) <= trade.JUDGED * (1 + trade.ROUNDS)
    again = []
    trade.search(space, full, cost, budget_s, lambda networks: again.extend(networks) or judge(networks))
    assert again == seen[:len(again)]


def test_where_nothing_is_better_the_first_network_stays():
    space, full, cost, budget_s = asked(0.6)
    rounds = []

    def judge(networks):
        rounds.append(len(networks))
        return [float(len(rounds) > 1)] * len(networks)

    assert trade.search(space, full, cost, budget_s, judge) == trade.first(space, full, cost, budget_s)[0]
    assert len(rounds) == 2


def test_networks_alike_are_judged_once():
    space, full, _, _ = asked(0.6)
    one, near, gone, far = (widths_of(space, 16, b, 16, 0, 32, 32, c, 64, 64, 64)
                            for b, c in ((4, 32), (8, 24), (0, 32), (16, 24)))
    known = [tuple(one[g.name] for g in space.groups)]
    assert trade._unlike([near, gone, far, gone], space, known, 9) == [gone, far]
    assert trade._unlike([near, gone, far], space, known, 1) == [gone]
    assert full != one


def test_after_a_first_glance_only_the_best_are_judged():
    """The glance is wrong about the best, but not by much: the judge decides. Its figures are never mixed with the
    judge's."""
    space, full, cost, budget_s = asked(0.4)
    glanced, judged = [], []

    def parameters(n):
        return -float(space.network.parameter_count(n))

    def glance(networks):
        glanced.append(networks)
        return [parameters(n) - 1e9 for n in networks]

    def judge(networks):
        judged.append(networks)
        return [-parameters(n) for n in networks]

    found = trade.search(space, full, cost, budget_s, judge, glance)
    assert all(len(few) == trade.FINALISTS for few in judged)
    assert len(judged) == len(glanced) >= 2
    for seen, few in zip(glanced, judged):
        assert sorted(map(parameters, few)) == sorted(map(parameters, seen))[:trade.FINALISTS]
    assert found == min((n for few in judged for n in few), key=lambda n: -parameters(n))


def test_where_all_that_went_on_are_useless_the_next_best_do():
    def judge(networks):
        return [math.inf if n["a"] < 3 else float(n["a"]) for n in networks]

    networks = [{"a": a} for a in (4, 1, 0, 3, 2, 5)]
    found = trade._judged(networks, judge, lambda networks: [math.inf if n["a"] == 1 else n["a"] for n in networks])
    assert [value for _, value in found] == [math.inf, math.inf, math.inf, 3, math.inf, math.inf]
    assert [n for n, _ in found] == networks
    assert trade._judged(networks[:2], judge, None) == [({"a": 4}, 4), ({"a": 1}, math.inf)]


def test_useless_networks_are_never_chosen_and_said_where_there_are_no_others():
    space, full, cost, budget_s = asked(0.6)
    with pytest.raises(NoWayOn, match="became NaN; lower --scratch_rate"):
        trade.search(space, full, cost, budget_s, lambda networks: [math.inf] * len(networks))
    with pytest.raises(NoWayOn, match="--method=trade: .* lower --pruning_fact or --floor"):
        trade.search(space, full, cost, 0.01 * budget_s, lambda networks: [0.0] * len(networks))


@pytest.mark.parametrize("name", TORCH_NETWORKS)
def test_every_kind_of_network_keeps_its_rules(name):
    network = TORCH_NETWORKS[name]
    kept = next(n.name for n in network.nodes if any(network.group[s.group].prunable for s in n.channels))
    space, cost, full, seen = Space(network, (kept,), 2, 0.25), in_steps(network, seed=7), network.full_widths, []
    budget_s = 0.8 * cost(full)

    def judge(networks):
        seen.extend(networks)
        return [float(len(seen))] * len(networks)  # the first network stays

    found = trade.search(space, full, cost, budget_s, judge)
    assert found == seen[0]
    for n in seen:
        assert cost(n) <= budget_s and network.lives(n)
        assert all(w % 2 == 0 or w == full[g] for g, w in n.items())
        assert all(n[g.name] == g.width for g in space.groups if not g.prunable)
        assert all(n[g] >= 0.25 * full[g] for g in network.streams)


def test_its_name_and_floor_are_known():
    assert baselines.default_floor("trade") == 0.25 and baselines.default_floor("knapsack") == 0
