"""Trade channels between groups at equal latency, and keep the network that a judge likes best.

NetAdapt only takes away: a thin branch stays, though it costs its invocations, and what a removal frees is never spent.
Here every network that is judged uses the whole budget.

1. The first networks are those with the most parameters, the most multiply-accumulate operations, and the largest
   geometric mean of both, within the budget (knapsack.py).
2. The neighbours of the best network so far are made: one group gets another width, or goes, or comes back. What this
   frees is spent on the other groups; what it costs they pay. They are traded until the worth grows no further.
3. The judge sees the neighbours worth most. If one of them is better, it is the best network, and 2. follows again.
   A first glance, which costs less, leaves only the best of them to the judge (successive halving, arXiv 1502.07943).

What a network learned in a few epochs understates what a larger one can learn in many: ``figure`` makes up for it.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, zip_longest
from typing import Callable, Optional

import numpy as np

from model.network import Widths
from utils.common.progress import progress
from utils.search.costs import COUNTS, Latency
from utils.search.knapsack import CountWorth, Knapsack, MeanWorth, climbed, fitted, solved
from utils.search.netadapt import NoWayOn
from utils.search.space import Space

PARTS = (0, 0.25, 0.5, 0.75, 1)  # of its full width that a group gets in a neighbour
JUDGED = 6  # neighbours that the judge sees in a round
ROUNDS = 4  # at most
VIEWS = 2  # of ``problems``, that neighbours are made and ranked by
FINALISTS = 1  # of a round's networks, that the judge sees after the first glance
CAPACITY = 0.12  # of training loss, that e times as many parameters are worth
FIRST_CAPACITY = 0.25  # the same, at the first glance
UNLIKE = 0.75  # parts of their full widths by which groups differ, in sum, for a network to be judged beside another

Judge = Callable[[Sequence[Widths]], Sequence[float]]  # a figure for every network, the less the better; inf: useless
Key = tuple[int, ...]  # the widths of a network's groups, in its order


def search(space: Space, widths: Widths, latency: Latency, budget_s: float, judge: Judge,
           glance: Optional[Judge] = None) -> dict[str, int]:
    """The network within the budget that the judge likes best. Raises NoWayOn if no widths meet the budget.

    glance: a judge that costs less, whose figures are only compared with each other.
    """
    sacks, known = problems(space, widths, latency, budget_s), dict[Key, float]()

    def look(networks: Sequence[Widths]) -> Key:
        for network, value in _judged(networks, judge, glance):
            known[tuple(network[g.name] for g in space.groups)] = value
        return min(known, key=lambda key: known[key])  # of equals, the first

    def named(key: Key) -> dict[str, int]:
        return {g.name: width for g, width in zip(space.groups, key)}

    best = look(_unlike(first(space, widths, latency, budget_s), space, known, JUDGED))
    for _ in range(ROUNDS):
        found = look(_unlike(neighbours(sacks[:VIEWS], named(best)), space, known, JUDGED))
        if found == best:
            break
        best = found
    if known[best] == math.inf:
        raise NoWayOn("--method=trade: the loss of every network became NaN; lower --scratch_rate")
    return named(best)


def _judged(networks: Sequence[Widths], judge: Judge, glance: Optional[Judge]) -> list[tuple[Widths, float]]:
    """The networks with their figures, inf for those that got no further than a glance.

    If all that went on are useless, the next best go on.
    """
    if glance is None or len(networks) <= FINALISTS:
        return list(zip(networks, judge(networks)))
    glances = glance(networks)
    ranked = sorted((i for i, value in enumerate(glances) if value < math.inf), key=lambda i: glances[i])
    figures = [math.inf] * len(networks)
    for start in range(0, len(ranked), FINALISTS):
        going = sorted(ranked[start:start + FINALISTS])
        for i, value in zip(going, judge([networks[i] for i in going])):
            figures[i] = value
        if min(figures) < math.inf:
            break
    return list(zip(networks, figures))


def figure(loss: float, parameters: int, capacity: float = CAPACITY) -> float:
    """What a network is chosen by, the less the better, from its training loss after a few epochs.

    ``benchmarks/judge.py`` shows which parts the two should have (results/README.md, "Which judge?").
    """
    return loss - capacity * math.log(parameters)


def first(space: Space, widths: Widths, latency: Latency, budget_s: float) -> list[dict[str, int]]:
    """The networks that a search begins with. Raises NoWayOn if no widths meet the budget."""
    return [solved(sack) for sack in problems(space, widths, latency, budget_s)]


def problems(space: Space, widths: Widths, latency: Latency, budget_s: float) -> tuple[Knapsack, ...]:
    """What a network is worth before anybody trains it: three views."""
    params, macs = COUNTS["params"](space.network), COUNTS["macs"](space.network)
    groups = tuple(g.name for g in space.groups if g.prunable)
    return tuple(Knapsack("trade", space, widths, latency, budget_s, worth, groups)
                 for worth in (CountWorth(params), MeanWorth((params, macs)), CountWorth(macs)))


def neighbours(sacks: Sequence[Knapsack], widths: Widths) -> Iterator[dict[str, int]]:
    """Networks that differ in one group, and in what pays for it: those worth most first, by every view in turn."""
    tasks = [(sack, group) for sack in sacks for group in sack.groups]
    found = [list(_neighbours(sack, widths, group)) for sack, group in progress(tasks, "other networks", len(tasks))]
    views = zip(sacks, (chain.from_iterable(found[start:start + len(sacks[0].groups)])
                        for start in range(0, len(tasks), len(sacks[0].groups))))
    ranked = [sorted(networks, key=sack.worth, reverse=True) for sack, networks in views]
    return (network for network in chain.from_iterable(zip_longest(*ranked)) if network)


def _neighbours(sack: Knapsack, widths: Widths, group: str) -> Iterator[dict[str, int]]:
    """Those in which this group differs."""
    others = replace(sack, groups=tuple(g for g in sack.groups if g != group))
    for width in _choices(sack, widths, group):
        changed = {**widths, group: width}
        paid = fitted(others, changed) if sack.space.lives(changed) else None
        found = climbed(others, paid) if paid else None
        if found and any(found[g] > widths[g] for g in found):  # else a part of the network: no gain
            yield found


def _choices(sack: Knapsack, widths: Widths, group: str) -> list[int]:
    """The widths nearest to PARTS of the group's widest, without the one that it has."""
    allowed = sack.choices(widths, group).tolist()
    wanted = [part * sack.widest[group] for part in PARTS]
    nearest = (min((width for width in allowed if bool(width) == bool(goal)), key=lambda width: abs(width - goal),
                   default=widths[group]) for goal in wanted)
    return [width for width in dict.fromkeys(nearest) if width != widths[group]]


def _unlike(networks: Iterable[dict[str, int]], space: Space, known: Iterable[Key], count: int) -> list[dict[str, int]]:
    """The first ``count`` networks that are unlike each other, and unlike those that are known."""
    full, seen, found = np.array([g.width for g in space.groups]), [np.array(key) for key in known], []
    for network in networks:
        key = np.array([network[g.name] for g in space.groups])
        if len(found) < count and not any(_alike(key, other, full) for other in seen):
            seen.append(key)
            found.append(network)
    return found


def _alike(one: np.ndarray, other: np.ndarray, full: np.ndarray) -> bool:
    """Whether the same groups are gone, and the widths of the others differ by less than UNLIKE in sum."""
    return bool(((one == 0) == (other == 0)).all() and (abs(one - other) / full).sum() < UNLIKE)
