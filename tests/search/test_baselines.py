"""The methods that choose all widths at once: toy latencies, literal and brute-force expectations."""

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from model.architectures import describe
from tests.helpers import TOY, TOY_WIDTHS, toy_latency
from utils.search import baselines
from utils.search.netadapt import NoWayOn
from utils.search.space import Space


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
                                    lambda *a: baselines.knapsack(*a, {"a": [1.0] * 10, "b": [1.0] * 10})])
def test_a_budget_out_of_reach_is_said(choose):
    with pytest.raises(NoWayOn, match="lower --pruning_fact"):
        choose(Space(TOY), TOY_WIDTHS, toy_latency, 0.1)
