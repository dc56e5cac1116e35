"""The algorithm alone, with a toy network and an arithmetic table: milliseconds, literal expectations."""

import math

import pytest

from tests.helpers import TOY, TOY_WIDTHS, toy_latency
from utils.common.errors import UserError
from utils.search import netadapt
from utils.search.netadapt import Candidate, Proposal, Settings, State
from utils.search.space import Space


def test_schedule():
    settings = Settings(pruning_fact=0.4, init_red_fact=20, decay_rate=0.98)
    assert netadapt.target_gain_s(settings, 10.0, 1) == pytest.approx(0.2)
    assert netadapt.target_gain_s(settings, 10.0, 3) == pytest.approx(0.2 * 0.98 ** 2)
    assert netadapt.budget_s(settings, 10.0) == pytest.approx(6.0)


@pytest.mark.parametrize("target_s, expected", [
    (0.3, {"a": (9, 0.4), "b": (8, 1.2)}), (0.5, {"a": (8, 0.8), "b": (8, 1.2)}),
    (1.3, {"a": (6, 1.6), "b": (4, 3.6)}), (3.7, {"a": None, "b": (0, 6.0)}), (7.0, {"a": None, "b": None})])
def test_a_proposal_is_the_largest_width_that_gains_enough(target_s, expected):
    found = dict(netadapt.proposals(Space(TOY), TOY_WIDTHS, toy_latency, target_s, allow_small=False))
    for group, wanted in expected.items():
        if wanted is None:
            assert found[group] is None
        else:
            assert found[group].width == 10
            assert (found[group].proposed_width, found[group].gain_s) == pytest.approx(wanted)


def test_a_gain_equal_to_the_target_does_not_exceed_it():
    proposal = netadapt.propose(Space(TOY), TOY_WIDTHS, "a", lambda w: 0.5 * w["a"], 0.5, allow_small=False)
    assert (proposal.proposed_width, proposal.gain_s) == (8, 1.0)


@pytest.mark.parametrize("reach, expected", [(1, 6), (18, 6), (19, 4), (1000, 4)])
def test_a_proposal_reaches_for_the_end_of_a_latency_step(reach, expected):
    step = lambda w: 0.1 * w["b"] + (5.0 if w["b"] > 4 else 0.0)  # from 10 to 4 channels: 5.6 s, 18.7 times 0.3 s
    proposal = netadapt.propose(Space(TOY), TOY_WIDTHS, "b", step, 0.3, allow_small=False, reach=reach)
    gain_s = step(TOY_WIDTHS) - step(dict(TOY_WIDTHS, b=expected))
    assert (proposal.proposed_width, proposal.gain_s) == (expected, gain_s)


def test_without_steps_reach_makes_no_difference():
    bent = lambda w: 0.1 * w["b"] ** 1.2  # a little more per channel the more there are
    for reach in (1, 6, 100):
        assert netadapt.propose(Space(TOY), TOY_WIDTHS, "b", bent, 0.2, allow_small=False,
                                reach=reach).proposed_width == 8
    steeper = lambda w: 1.0 - 0.001 * (10 - w["b"]) ** 1.1
    assert netadapt.propose(Space(TOY), TOY_WIDTHS, "b", steeper, 0.0015, allow_small=False,
                            reach=4).proposed_width == 8


def test_small_prunings_let_a_whole_block_go_below_the_target():
    assert netadapt.propose(Space(TOY), TOY_WIDTHS, "b", toy_latency, 7.0, allow_small=True) == Proposal("b", 10, 0,
                                                                                                         6.0)
    assert netadapt.propose(Space(TOY), TOY_WIDTHS, "a", toy_latency, 7.0, allow_small=True) is None
    free = lambda widths: 1.0
    assert netadapt.propose(Space(TOY), TOY_WIDTHS, "b", free, 7.0, allow_small=True) is None


def test_a_block_may_go_beside_its_narrower_width():
    """Its whole 6 s, judged for what they cost; by NetAdapt's own rule only where no narrower width gains enough."""
    keys = lambda removals, factor: [p.key for p in netadapt.proposals_of_step(
        Space(TOY), State(TOY_WIDTHS, 10.0, 10.0), Settings(0.4, factor, removals=removals), toy_latency)]
    assert keys("always", 4) == [("a", 7), ("b", 8), ("b", 0)] and keys("last", 4) == [("a", 7), ("b", 8)]
    assert keys("always", 1) == keys("last", 1) == [("b", 0)]  # 4 s: neither 3.6 s nor all of a gain that
    costs = {("b", 8): 11.0, ("b", 0): 12.0}  # 0.83 and 0.5 points for a second of those that are missing
    steps = run(Settings(0.4, 4, removals="always"), lambda step, p: costs.get(p.key, 99.0))
    assert [s.chosen.proposal.key for s in steps] == [("b", 0)]
    assert netadapt.removal(TOY, {**TOY_WIDTHS, "b": 0}, "b", toy_latency, 0.1, False) is None


def candidate(group, gain_s, error_pct, growth_pct):
    return Candidate(Proposal(group, 10, 5, gain_s), error_pct, growth_pct)


def test_criteria():
    cheap, lasting = candidate("a", 1.0, 11.0, 1.0), candidate("b", 3.0, 12.0, 2.0)
    assert netadapt.rank([cheap, lasting], "ratio") == [lasting, cheap]
    assert netadapt.rank([lasting, cheap], "error") == [cheap, lasting]


def test_the_criterion_of_the_loss_looks_at_nothing_else():
    by_loss = [Candidate(Proposal("a", 10, 5, 1.0), 10.0, 0.0, 0.5, 0.02),
               Candidate(Proposal("b", 10, 5, 2.0), 12.0, 2.0, 0.51, 0.03)]
    assert [c.proposal.group for c in netadapt.rank(by_loss, "loss")] == ["b", "a"]
    assert [c.proposal.group for c in netadapt.rank(by_loss, "ratio")] == ["a", "b"]


def test_equal_candidates_and_nan():
    one, two = candidate("a", 1.0, 10.0, 0.0), candidate("b", 2.0, 10.0, 0.0)
    assert netadapt.rank([one, two], "ratio") == [two, one]
    broken = candidate("a", 9.0, math.nan, math.nan)
    assert netadapt.rank([broken, one], "ratio") == [one]
    assert netadapt.rank([broken], "ratio") == []


def run(settings, evaluate, state=None):
    """evaluate(step, proposal) -> error."""
    state = state or State(TOY_WIDTHS, 10.0, toy_latency(TOY_WIDTHS))
    before = [state.error_pct]

    def judged(step, found):
        return [Candidate(p, evaluate(step, p), evaluate(step, p) - before[0]) for p in found]

    steps = []
    for step in netadapt.search(Space(TOY), state, settings, toy_latency, judged):
        before[0] = step.state.error_pct
        steps.append(step)
    return steps


def test_search_meets_the_budget_and_books_every_gain_through_one_function():
    steps = run(Settings(0.4, 4), lambda step, p: 10.0 + step + (0.5 if p.group == "a" else 0.0))
    assert steps[-1].latency_s <= 6.0 < steps[-2].latency_s
    before = toy_latency(TOY_WIDTHS)
    for number, step in enumerate(steps, 1):
        assert step.state.step == number
        assert step.latency_s == toy_latency(step.state.widths) == pytest.approx(before - step.chosen.proposal.gain_s)
        # at last only what is missing
        asked = min(netadapt.target_gain_s(Settings(0.4, 4), 10.0, number), before - 6.0)
        assert step.chosen.proposal.gain_s > step.target_gain_s == pytest.approx(asked)
        before = step.latency_s


def test_the_last_step_takes_no_more_than_is_missing():
    steps = run(Settings(0.21, 1.5, 1.0), lambda step, p: 10.0 if p.group == "a" else 99.0)
    assert [s.chosen.proposal.proposed_width for s in steps] == [6, 4]  # 1.4 s are asked for, then the 0.5 s left
    assert [s.target_gain_s for s in steps] == pytest.approx([1.4, 0.5])


def test_search_takes_the_least_growth_per_second():
    errors = {"a": 13.0, "b": 12.0}  # a gains 1.2 s, b 3.6 s
    steps = run(Settings(0.4, 4, 1.0), lambda step, p: errors[p.group])
    assert [s.chosen.proposal.group for s in steps][0] == "b"
    steps = run(Settings(0.1, 1, 1.0), lambda step, p: {"a": 10.1, "b": 12.0}[p.group])
    assert [(s.chosen.proposal.group, s.chosen.proposal.proposed_width) for s in steps] == [("a", 7)]


def test_what_is_gained_beyond_the_budget_counts_for_nothing():
    plenty, enough = (Candidate(Proposal(*p, missing_s=1.0), e, e - 10.0) for p, e in
                      ((("b", 10, 0, 6.0), 13.0), (("a", 10, 7, 1.2), 12.0)))
    assert netadapt.rank([plenty, enough], "ratio") == [enough, plenty]
    assert (plenty.ratio, enough.ratio) == (3.0, 2.0)
    steps = run(Settings(0.1, 1, 1.0), lambda step, p: {"a": 10.6,
                                                        "b": 11.2}[p.group])  # 1 s is missing; b gains 3.6, a 1.2
    assert [s.chosen.proposal.group
            for s in steps] == ["a"] and steps[0].chosen.proposal.missing_s == pytest.approx(1.0)


def test_search_goes_on_from_a_state():
    evaluate = lambda step, p: 10.0 + step + (0.5 if p.group == "a" else 0.0)
    whole = run(Settings(0.5, 8), evaluate)
    assert len(whole) > 2
    assert run(Settings(0.5, 8), evaluate, state=whole[1].state) == whole[2:]


def test_a_target_out_of_reach_says_so():
    with pytest.raises(UserError, match=r"step 1: no layer can gain 7000 ms of the 1e\+04 ms that are left"):
        run(Settings(0.7, 1), lambda step, p: 10.0)


def test_every_candidate_nan_says_so():
    with pytest.raises(UserError, match="loss of every candidate became NaN"):
        run(Settings(0.4, 4), lambda step, p: math.nan)


def test_a_part_of_the_proposals_is_drawn_by_seed_and_step():
    found = [Proposal(f"g{i}", 10, 5, 1.0) for i in range(20)]
    half = lambda seed, step: netadapt.drawn(found, Settings(0.4, layer_fraction=0.5, seed=seed), step)
    assert len(half(0, 1)) == 10 and half(0, 1) == half(0, 1) == sorted(half(0, 1), key=found.index)
    assert half(0, 1) != half(0, 2) and half(0, 1) != half(1, 1)
    assert netadapt.drawn(found, Settings(0.4), 1) == found
    assert len(netadapt.drawn(found, Settings(0.4, layer_fraction=0.001), 1)) == 1
    steps = run(Settings(0.4, 4, layer_fraction=0.5), lambda step, p: 10.0 + step)
    assert [len(s.left_out) for s in steps][:3] == [1, 1, 1]  # one of two; at the end one alone is left
    assert all(s.left_out[0].group != s.chosen.proposal.group for s in steps[:3])
