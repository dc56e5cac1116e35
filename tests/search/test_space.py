"""Which widths a search may choose: layers that are kept, widths that are multiples of a number, in every method."""

from dataclasses import replace

import pytest

from tests.helpers import SMALL, TOY, TOY_WIDTHS, toy_latency
from utils.common.errors import UserError
from utils.search import baselines, netadapt
from utils.search.netadapt import Settings, State
from utils.search.space import Space

SALIENCY = {"a": [1.0, 2, 3, 4, 5, 6, 7, 8, 9, 10], "b": [10.0, 9, 8, 7, 6, 5, 4, 3, 2, 1]}
METHODS = {
    "uniform": lambda space: baselines.uniform(space, TOY_WIDTHS, toy_latency, 7.0),
    "random": lambda space: baselines.at_random(space, TOY_WIDTHS, toy_latency, 7.0, 0),
    "knapsack": lambda space: baselines.knapsack(space, TOY_WIDTHS, toy_latency, 7.0, SALIENCY),
    "netadapt": lambda space: {**TOY_WIDTHS, **{
        p.group: p.proposed_width for p in netadapt.proposals_of_step(
            space, State(TOY_WIDTHS, 10.0, 10.0), Settings(0.4, 2), toy_latency)}}}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("multiple_of", [1, 3, 4])
def test_widths_are_multiples(method, multiple_of):
    found = METHODS[method](Space(TOY, multiple_of=multiple_of))
    assert found != TOY_WIDTHS
    assert all(w % multiple_of == 0 or w == TOY_WIDTHS[g] for g, w in found.items()), found


@pytest.mark.parametrize("method", METHODS)
def test_what_is_kept_stays_as_it_is(method):
    for layer, group in (("A", "a"), ("B", "b")):
        found = METHODS[method](Space(TOY, keep=(layer,)))
        assert found != TOY_WIDTHS and found[group] == TOY_WIDTHS[group]


def test_the_narrowest_network():
    space = Space(SMALL, keep=("Conv_2_*",), multiple_of=4)
    found = space.narrowest(SMALL.full_widths)
    assert found == {g.name: 0 if g.removable else 4 if g.prunable else g.width for g in space.groups}
    assert 0 in found.values() and 4 in found.values() and SMALL.lives(found)
    either = replace(TOY, groups=tuple(replace(g, removable=g.name in "ab") for g in TOY.groups))
    assert Space(either).narrowest(TOY_WIDTHS) is None  # its output would be gone


def test_a_pattern_keeps_all_that_shares_channels():
    space = Space(SMALL, keep=("Conv_1_*",))
    kept = {g.name for g in SMALL.groups if g.prunable} - {g.name for g in space.groups if g.prunable}
    assert {"Conv_1_0_1"} < kept and not [g for g in space.groups if g.name in kept and g.removable]


@pytest.mark.parametrize("space, words", [
    (Space(TOY, keep=("nothing*",)), r"--keep=nothing\*: no layer of that name; some are A, B, C, Y"),
    (Space(TOY, keep=("A", "B")), "leave nothing of toy to prune"),
    (Space(TOY, multiple_of=64), "leave nothing of toy to prune")])
def test_what_leaves_nothing_is_refused(space, words):
    with pytest.raises(UserError, match=words):
        space.checked()
    assert Space(TOY).checked() == Space(TOY)
