"""The methods that choose all widths at once: toy latencies, literal and brute-force expectations."""

import csv
import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from model.architectures import describe
from tests.helpers import ROOT, TORCH_NETWORKS, TOY, TOY_WIDTHS, in_steps, published, toy_latency
from utils.search import baselines
from utils.search.netadapt import NoWayOn
from utils.search.space import Space

AT_ONCE = ("uniform_filled", "params", "macs")


def test_uniform_takes_the_largest_factor_that_meets_the_budget():
    assert baselines.uniform(Space(TOY), TOY_WIDTHS, toy_latency, 10.0) == TOY_WIDTHS
    found = baselines.uniform(Space(TOY), TOY_WIDTHS, toy_latency,
                              6.0)  # b costs in steps of 4: 2 * 4 + 2.8 > 6 >= 4.8 + 1.2
    assert found["a"] == found["b"] == 4 and (found["x"], found["y"]) == (3, 2)
    assert toy_latency(dict(found, a=5, b=5)) > 6.0


def test_random_meets_the_budget_and_depends_on_the_seed_alone():
    network = describe("res", depth=10, width=1.0)
    price = lambda widths: sum(widths.values()) * 1.0
    total = price(network.full_widths)
    several = [baselines.at_random(Space(network), network.full_widths, price, 0.6 * total, seed) for seed in (0, 0, 1)]
    assert several[0] == several[1] != several[2]
    for found in several:
        assert 0.55 * total < price(found) <= 0.6 * total and min(found.values()) >= 1


def worth_of(saliency, widths):
    return sum(sum(sorted(saliency[g], reverse=True)[:widths[g]]) for g in saliency)


# two latency steps without a price of a second between them
@example(values=[1.0] * 7 + [0.5] * 3 + [1.0] * 10, part=0.5)
@given(values=st.lists(st.floats(0.01, 1), min_size=20, max_size=20), part=st.floats(0.15, 0.95))
def test_the_knapsack_is_worth_nearly_what_the_best_of_all_choices_is(values, part):
    saliency = {"a": values[:10], "b": values[10:]}
    budget = part * 10.0
    found = baselines.knapsack(Space(TOY), TOY_WIDTHS, toy_latency, budget, saliency)
    assert toy_latency(found) <= budget
    choices = [dict(TOY_WIDTHS, a=a, b=b) for a, b in itertools.product(range(1, 11), range(11))]
    best = max(worth_of(saliency, c) for c in choices if toy_latency(c) <= budget)
    assert worth_of(saliency, found) >= 0.9 * best
    more = [dict(found, **{g: w}) for g in "ab" for w in range(found[g] + 1, 11)]
    assert all(toy_latency(m) > budget for m in more)  # nothing is left to give back


@pytest.mark.parametrize("choose", [baselines.uniform, lambda *a: baselines.at_random(*a, 0),
                                    lambda *a: baselines.knapsack(*a, {"a": [1.0] * 10, "b": [1.0] * 10}),
                                    *(lambda *a, m=m: baselines.BY_LATENCY[m](*a, 0) for m in AT_ONCE)])
def test_a_budget_out_of_reach_is_said(choose):
    with pytest.raises(NoWayOn, match="lower --pruning_fact"):
        choose(Space(TOY), TOY_WIDTHS, toy_latency, 0.1)


# --- methods that need no data ---------------------------------------------------------------------------------

@pytest.mark.parametrize("budget_s, uniform, filled", [
    (3.0, (1, 1), (1, 4)), (6.0, (4, 4), (9, 4)), (7.0, (5, 5), (10, 4)), (9.0, (8, 8), (10, 8))])
def test_uniform_is_filled_up_to_the_budget(budget_s, uniform, filled):
    """At 7 s the rounding to multiples of 4 leaves more room than plain uniform."""
    asked = Space(TOY), TOY_WIDTHS, toy_latency, budget_s
    assert baselines.uniform(*asked) == {**TOY_WIDTHS, "a": uniform[0], "b": uniform[1]}
    assert baselines.uniform_filled(*asked) == {**TOY_WIDTHS, "a": filled[0], "b": filled[1]}


@pytest.mark.parametrize("method", ["params", "macs"])
@pytest.mark.parametrize("budget_s, a, b", [(3.0, 7, 0), (5.0, 6, 4), (6.0, 9, 4), (8.0, 8, 8), (9.0, 10, 8)])
def test_the_most_of_a_count_within_the_budget(method, budget_s, a, b):
    asked = Space(TOY), TOY_WIDTHS, toy_latency, budget_s
    found = baselines.BY_LATENCY[method](*asked, 0)
    assert found == {**TOY_WIDTHS, "a": a, "b": b} and {type(width) for width in found.values()} == {int}
    count = {"params": TOY.parameter_count, "macs": TOY.multiply_adds}[method]
    every = [dict(TOY_WIDTHS, a=a, b=b) for a, b in itertools.product(range(1, 11), range(11))]
    assert count(found) == max(count(widths) for widths in every if toy_latency(widths) <= budget_s)


@pytest.mark.parametrize("floor, a, b", [(0, 3, 8), (0.25, 3, 8), (0.5, 9, 4), (0.7, 9, 4), (1, 10, 0)])
def test_a_residual_stream_keeps_its_floor(floor, a, b):
    """Its channels are worth a tenth of the others. 0.7 of 10 channels are 7, not 8."""
    saliency = {"a": [0.1] * 10, "b": [1.0] * 10}
    found = baselines.knapsack(Space(TOY, floor=floor), TOY_WIDTHS, toy_latency, 6.0, saliency)
    assert found == {**TOY_WIDTHS, "a": a, "b": b}
    assert Space(TOY, floor=0.7).least("a") == 7 and Space(TOY, floor=0.7).least("b") == 0


def test_a_floor_is_rounded_up_to_a_multiple_and_named_where_it_leaves_no_way():
    saliency = {"a": [0.1] * 10, "b": [1.0] * 10}
    found = baselines.knapsack(Space(TOY, multiple_of=4, floor=0.5), TOY_WIDTHS, toy_latency, 6.0, saliency)
    assert (found["a"], found["b"]) == (8, 4)
    for method in ("params", "macs"):
        with pytest.raises(NoWayOn, match=f"--method={method}: .* is 2000 ms, asked for 1900 ms; lower --pruning_fact "
                                          "or --floor"):
            baselines.BY_LATENCY[method](Space(TOY, floor=0.5), TOY_WIDTHS, toy_latency, 1.9, 0)


@pytest.mark.parametrize("method", AT_ONCE)
@pytest.mark.parametrize("name", TORCH_NETWORKS)
def test_every_network_meets_every_budget(name, method):
    network = TORCH_NETWORKS[name]
    kept = next(n.name for n in network.nodes if any(network.group[s.group].prunable for s in n.channels))
    for part, multiple_of, floor, keep in ((0.8, 1, 0.0, ()), (0.6, 1, 0.5, ()), (0.6, 2, 0.25, ()),
                                           (0.8, 1, 0.0, (kept,))):
        space, cost = Space(network, keep, multiple_of, floor), in_steps(network, seed=7)
        full, budget_s = network.full_widths, part * cost(network.full_widths)
        found = baselines.BY_LATENCY[method](space, full, cost, budget_s, 0)
        assert cost(found) <= budget_s and found != full and network.layers(found)
        assert all(w % multiple_of == 0 or w == full[g] for g, w in found.items())
        assert all(found[g.name] == g.width for g in space.groups if not g.prunable)
        assert method == "uniform_filled" or all(found[g] >= floor * full[g] for g in network.streams)
        again = baselines.BY_LATENCY[method](space, full, in_steps(network, seed=7), budget_s, 1)
        assert again == found
        more = [{**found, g.name: w} for g in space.groups if g.prunable and (multiple_of, floor) == (1, 0)
                for w in range(found[g.name] + 1, g.width + 1)]
        assert all(cost(m) > budget_s for m in more)  # nothing is left to give back
        if method == "uniform_filled":
            plain = baselines.uniform(space, full, cost, budget_s)
            assert network.parameter_count(found) >= network.parameter_count(plain)


# --- by the published table ------------------------------------------------------------------------------------

CHOSEN_16_1 = {
    ("uniform", 0.4): [8, 8, 8, 8, 16, 16, 16, 33, 33, 33],
    ("uniform_filled", 0.4): [8, 9, 16, 10, 16, 16, 16, 64, 32, 64],
    ("params", 0.4): [16, 0, 16, 0, 32, 32, 32, 64, 64, 64],
    ("macs", 0.4): [16, 0, 16, 0, 32, 32, 32, 64, 64, 64],
    ("blocks", 0.4): [16, 0, 16, 0, 32, 32, 32, 64, 64, 64],
    ("blocks", 0.6): [16, 0, 16, 0, 0, 32, 0, 64, 64, 64],
    ("uniform", 0.6): [5, 5, 5, 5, 9, 9, 9, 18, 18, 18],
    ("uniform_filled", 0.6): [4, 4, 4, 4, 12, 16, 13, 41, 32, 32],
    ("params", 0.6): [11, 0, 16, 0, 0, 32, 16, 64, 64, 64],
    ("macs", 0.6): [16, 0, 8, 0, 32, 32, 32, 64, 32, 32],
}


@pytest.mark.parametrize("method, part", CHOSEN_16_1)
def test_the_networks_of_the_results_are_chosen(method, part):
    network, cost = published()
    found = baselines.BY_LATENCY[method](Space(network, floor=baselines.default_floor(method)), network.full_widths,
                                         cost, (1 - part) * cost(network.full_widths), 0)
    assert [found[g.name] for g in network.groups if g.prunable] == CHOSEN_16_1[method, part]


@pytest.mark.parametrize("method, used, parameters", [
    ("uniform", 0.818, 575_799), ("uniform_filled", 1.0, 1_161_060), ("params", 1.0, 1_782_388),
    ("macs", 0.998, 576_966), ("blocks", 0.972, 1_766_874)])
def test_what_the_methods_make_of_a_deeper_network(method, used, parameters):
    network, cost = published(40, 2.0, "res-40-2")
    budget_s = 0.4 * cost(network.full_widths)
    found = baselines.BY_LATENCY[method](Space(network, floor=baselines.default_floor(method)), network.full_widths,
                                         cost, budget_s, 0)
    assert network.parameter_count(found) == parameters and round(cost(found) / budget_s, 3) == used


def test_published_rows_come_out_to_the_digit():
    network, cost = published()
    with open(ROOT / "results/cifar10-res-16-1.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["method"] in ("uniform", "random")]
    for row in rows:
        budget_s = (1 - float(row["pruning_fact"])) * cost(network.full_widths)
        found = baselines.BY_LATENCY[row["method"]](Space(network), network.full_widths, cost, budget_s,
                                                    int(row["seed"]))
        assert (network.parameter_count(found), network.multiply_adds(found)) == \
            (int(row["parameters"]), int(row["macs"])), row["file_name"]
        assert f"{cost(found):.6g}" == row["table_time"]
    assert len(rows) == 12


def test_a_worth_of_one_leaves_a_stream_of_one_channel_unless_it_has_a_floor():
    network, cost = published()
    ones = {g.name: [1.0] * g.width for g in network.groups if g.prunable}
    budget_s = 0.4 * cost(network.full_widths)
    for floor, streams in ((0, [13, 1, 64]), (0.25, [16, 16, 32])):
        found = baselines.knapsack(Space(network, floor=floor), network.full_widths, cost, budget_s, ones)
        assert [found[g.name] for g in network.groups if g.name in network.streams] == streams
        assert cost(found) <= budget_s
