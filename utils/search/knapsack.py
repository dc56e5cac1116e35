"""The knapsack: the widths worth most within a budget, whatever their worth is (HALP, arXiv 2210.06659, section 3).

1. At a price per second, every group in turn takes the width of the largest worth - price * latency, beside the present
   widths of the others. This repeats until no width changes.
2. Bisection finds the lowest price whose widths meet the budget.
3. Groups get wider while the budget allows it, the most worth per second first.
4. Channels of one group are traded for those of another while this adds worth. Because of latency steps, no price leads
   to these widths.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import NamedTuple, Optional, Protocol

import numpy as np

from model.network import Widths
from utils.search.costs import Cost, Latency, costs_along
from utils.search.netadapt import out_of_reach
from utils.search.space import Space

Saliency = Mapping[str, Sequence[float]]  # {group: worth of each channel}

TRADES = 100  # pairs of groups that are tried at a time
ROWS = 64  # of the table of pairs, looked through at a time: all of it could need gigabytes
DOUBLINGS, HALVINGS, SWEEPS = 60, 30, 20  # of the price, and over the groups at one price
LEAST = 1e-9  # part of the worth of all channels that a trade has to add


class Worth(Protocol):
    """What channels are worth together."""

    def __call__(self, widths: Widths) -> float:
        """Of a network."""
        ...

    def along(self, widths: Widths, group: str, choices: np.ndarray) -> np.ndarray:
        """With the group at each of these widths; only differences between them count."""
        ...


class ChannelWorth:
    """Every channel has a worth of its own, and a group keeps its best channels."""

    def __init__(self, saliency: Saliency) -> None:
        self._totals = {group: np.add.accumulate(np.array([0.0, *sorted(values, reverse=True)]))
                        for group, values in saliency.items()}  # [width]: what the best channels are worth together

    def __call__(self, widths: Widths) -> float:
        return sum(totals[widths[group]] for group, totals in self._totals.items())

    def along(self, widths: Widths, group: str, choices: np.ndarray) -> np.ndarray:
        return self._totals[group][choices]


@dataclass(frozen=True)
class CountWorth:
    """A network is worth what a count says. A channel's worth depends on the layers around it."""

    count: Cost

    def __call__(self, widths: Widths) -> float:
        return self.count(widths)

    def along(self, widths: Widths, group: str, choices: np.ndarray) -> np.ndarray:
        return costs_along(self.count, widths, group, choices)


@dataclass(frozen=True)
class MeanWorth:
    """A network is worth the geometric mean of two counts."""

    counts: tuple[Cost, Cost]

    def __call__(self, widths: Widths) -> float:
        one, other = (count(widths) for count in self.counts)
        return math.sqrt(one * other)

    def along(self, widths: Widths, group: str, choices: np.ndarray) -> np.ndarray:
        one, other = (costs_along(count, widths, group, choices) for count in self.counts)
        return np.sqrt(one.astype(np.float64) * other)  # as integers they could overflow


@dataclass(frozen=True)
class Knapsack:
    """The problem: which widths, no wider than ``widest``, are worth most within the budget.

    method: of --method, for messages; groups: those whose widths may change, in the order in which they are visited.
    """

    method: str
    space: Space
    widest: Widths
    latency: Latency
    budget_s: float
    worth: Worth
    groups: tuple[str, ...]

    def choices(self, widths: Widths, group: str) -> np.ndarray:
        """The widths that the group may get, the smallest first."""
        full, least = self.widest[group], self.space.least(group)
        if not widths[group] and not self.space.lives({**widths, group: full}):
            return np.zeros(1, np.int64)  # what it needs is gone, too
        may_go = self.space.group[group].removable and not least and self.space.lives({**widths, group: 0})
        narrower = [width for width in reversed(self.space.narrower(full)) if width >= least]
        return np.array([*[0] * may_go, *narrower, full])


def solved(sack: Knapsack) -> dict[str, int]:
    """The widths worth most within the budget. Raises NoWayOn if no widths meet it."""
    return climbed(sack, _at_the_lowest_price(sack))


def climbed(sack: Knapsack, widths: Widths) -> dict[str, int]:
    """These widths, which meet the budget, filled up and traded until no trade adds worth."""
    best = filled(sack, widths)
    while True:
        traded = _traded(sack, best)
        if traded is None:
            return best
        best = filled(sack, traded)


def filled(sack: Knapsack, widths: Widths) -> dict[str, int]:
    """Groups of these widths get wider while the budget allows it, the most worth per second first."""
    widths = dict(widths)
    while True:
        now, found = sack.latency(widths), []
        for group in sack.groups:
            choices = sack.choices(widths, group)
            choices = choices[choices > widths[group]]
            then = costs_along(sack.latency, widths, group, choices)
            rates = _gains(sack, widths, group, choices) / np.maximum(then - now, 1e-12)
            fits = then <= sack.budget_s
            found += zip(rates[fits].tolist(), repeat(group), choices[fits].tolist())
        if not found:
            return widths
        _, group, width = max(found)
        widths[group] = width


def fitted(sack: Knapsack, widths: Widths) -> Optional[dict[str, int]]:
    """Groups of these widths get narrower until the budget is met, the least worth per second first; None: they cannot.

    What a change gains beyond the budget does not count.
    """
    widths = dict(widths)
    while (missing := sack.latency(widths) - sack.budget_s) > 0:
        found = []
        for group in sack.groups:
            choices = sack.choices(widths, group)
            choices = choices[choices < widths[group]]
            gained = sack.latency(widths) - costs_along(sack.latency, widths, group, choices)
            choices, gained = choices[gained > 0], gained[gained > 0]
            rates = -_gains(sack, widths, group, choices) / np.minimum(gained, missing)
            found += zip(rates.tolist(), repeat(group), choices.tolist())
        if not found:
            return None
        _, group, width = min(found)
        widths[group] = width
    return widths


# --- the steps -------------------------------------------------------------------------------------------------

def _at_the_lowest_price(sack: Knapsack) -> dict[str, int]:
    low, high = 0.0, sack.worth(sack.widest) / sack.latency(sack.widest)
    best = _at_price(sack, sack.widest, high)
    for _ in range(DOUBLINGS):
        if sack.latency(best) <= sack.budget_s:
            break
        low, high = high, high * 2
        best = _at_price(sack, best, high)
    else:
        raise out_of_reach(sack.method, sack.latency, best, sack.budget_s, "--floor" if sack.space.floor else "")
    start = dict(sack.widest)
    for _ in range(HALVINGS):
        price = (low + high) / 2
        found = _at_price(sack, start, price)
        if sack.latency(found) <= sack.budget_s:
            high, best = price, found
        else:
            low, start = price, found
    return best


def _at_price(sack: Knapsack, widths: Widths, price: float) -> dict[str, int]:
    widths = dict(widths)
    for _ in range(SWEEPS):
        before = dict(widths)
        for group in sack.groups:
            choices = sack.choices(widths, group)
            value = (sack.worth.along(widths, group, choices)
                     - price * costs_along(sack.latency, widths, group, choices))
            widths[group] = int(choices[value.argmax()])
        if widths == before:
            break
    return widths


def _gains(sack: Knapsack, widths: Widths, group: str, choices: np.ndarray) -> np.ndarray:
    """What each of these widths of the group adds to the worth."""
    return sack.worth.along(widths, group, choices) - sack.worth.along(widths, group, np.array([widths[group]]))


class Changes(NamedTuple):
    """Other widths of single groups: one entry for each in every array."""

    group: np.ndarray  # its number
    width: np.ndarray
    cost_s: np.ndarray  # of the change alone
    gain: np.ndarray  # of worth

    def of(self, which: np.ndarray) -> "Changes":
        return Changes(*(values[which] for values in self))


def _traded(sack: Knapsack, widths: Widths) -> Optional[dict[str, int]]:
    """One group narrower and another wider, worth more together and within the budget; None if no such trade is found.

    The latency and the worth of a pair are first estimated from its two changes alone; of the pairs within the budget,
    the TRADES worth most are tried.
    """
    now, worth, found = sack.latency(widths), sack.worth(widths), []
    for number, group in enumerate(sack.groups):
        choices = sack.choices(widths, group)
        choices = choices[choices != widths[group]]
        found.append(Changes(np.full(len(choices), number), choices,
                             costs_along(sack.latency, widths, group, choices) - now,
                             _gains(sack, widths, group, choices)))
    if not found:
        return None
    changes = Changes(*map(np.concatenate, zip(*found)))
    wider = changes.width > np.array([widths[g] for g in sack.groups])[changes.group]
    less, more = changes.of(~wider), changes.of(wider)
    for i, j in _best_pairs(less, more, sack.budget_s - now, LEAST * sack.worth(sack.widest)):
        traded = {**widths, sack.groups[less.group[i]]: int(less.width[i]),
                  sack.groups[more.group[j]]: int(more.width[j])}
        if (less.group[i] != more.group[j] and sack.space.lives(traded)
                and sack.latency(traded) <= sack.budget_s and sack.worth(traded) > worth):
            return traded
    return None


def _best_pairs(less: Changes, more: Changes, budget_s: float, least: float) -> np.ndarray:
    """The TRADES pairs [i, j] that gain most: more than ``least``, and within the budget; of equals, the first."""
    pairs, gains = np.zeros((0, 2), int), np.zeros(0)
    for start in range(0, len(less.gain), ROWS):
        cost_s, gain = (np.add.outer(a[start:start + ROWS], b) for a, b in zip(less[2:], more[2:]))
        found = np.argwhere((gain > least) & (cost_s <= budget_s))
        pairs, gains = np.concatenate((pairs, found + (start, 0))), np.concatenate((gains, gain[tuple(found.T)]))
        best = np.argsort(-gains, kind="stable")[:TRADES]
        pairs, gains = pairs[best], gains[best]
        if len(gains) == TRADES:
            least = gains[-1]
    return pairs
