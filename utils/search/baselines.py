"""Methods to compare NetAdapt with: each chooses all widths at once and tries no candidates.

Each takes the space of the search, the network's widths, ``latency(widths)`` in seconds and a budget in seconds, and
returns widths that meet the budget. Only prunable groups get narrower, and only removable ones become 0. The same seed
gives the same widths.
Raises NoWayOn if no widths meet the budget.
"""

import random
from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Callable, NamedTuple, Optional

import numpy as np

from model.network import Widths
from utils.search.costs import Latency, costs_along, unit_of
from utils.search.netadapt import NoWayOn
from utils.search.space import Space

Saliency = Mapping[str, Sequence[float]]  # {group: worth of each channel}
Worth = Mapping[str, np.ndarray]  # {group: worth[width], what its best ``width`` channels are worth together}

FACTORS = 1000  # uniform scales in steps of 1 / FACTORS
PARTS = 16  # random takes 1 / PARTS of a group's full width at a time
TRADES = 100  # of the knapsack: pairs of groups that are tried at a time
ROWS = 64  # of the table of pairs, looked through at a time: all of it could need gigabytes
DOUBLINGS, HALVINGS, SWEEPS = 60, 30, 20  # of the knapsack: of its price, and over its groups at one price


def uniform(space: Space, widths: Widths, latency: Latency, budget_s: float) -> dict[str, int]:
    """Scale every prunable group by the largest factor that meets the budget; at least 1 channel of each stays."""
    def scaled(factor: int) -> dict[str, int]:
        return {g: space.at_most(w, w * factor / FACTORS) if space.group[g].prunable else w for g, w in widths.items()}

    for factor in range(FACTORS, -1, -1):
        if latency(scaled(factor)) <= budget_s:
            return scaled(factor)
    raise out_of_reach("uniform", latency, scaled(0), budget_s)


def at_random(space: Space, widths: Widths, latency: Latency, budget_s: float, seed: int) -> dict[str, int]:
    """Remove a sixteenth of the channels of a random group, again and again; at least 1 channel of each stays."""
    draw, widths = random.Random(seed), dict(widths)
    while latency(widths) > budget_s:
        left = [g.name for g in space.groups if g.prunable and space.narrower(widths[g.name])]
        if not left:
            raise out_of_reach("random", latency, widths, budget_s)
        group = draw.choice(left)
        wanted, choices = widths[group] - max(space.group[group].width // PARTS, 1), space.narrower(widths[group])
        widths[group] = next((width for width in choices if width <= wanted), choices[-1])
    return widths


def knapsack(space: Space, widths: Widths, latency: Latency, budget_s: float,
             saliency: Saliency) -> dict[str, int]:
    """The widths whose channels are worth most within the budget (HALP, arXiv 2210.06659, section 3).

    saliency: {group: worth of each channel}; a group keeps its best channels.

    1. At a price per second, every group in turn takes the width of the largest worth - price * latency, beside the
       present widths of the others. This repeats until no width changes.
    2. Bisection finds the lowest price whose widths meet the budget.
    3. Groups get wider while the budget allows it, the most worth per second first.
    4. Channels of one group are traded for those of another while this adds worth. Because of latency steps, no price
       leads to these widths.
    """
    worth = {g: _cumulative(values) for g, values in saliency.items() if space.group[g].prunable}
    low, high = 0.0, sum(total[-1] for total in worth.values()) / latency(widths)
    best = _at_price(space, widths, latency, worth, high)
    for _ in range(DOUBLINGS):
        if latency(best) <= budget_s:
            break
        low, high = high, high * 2
        best = _at_price(space, best, latency, worth, high)
    else:
        raise out_of_reach("knapsack", latency, best, budget_s)
    start = dict(widths)
    for _ in range(HALVINGS):
        price = (low + high) / 2
        found = _at_price(space, start, latency, worth, price)
        if latency(found) <= budget_s:
            high, best = price, found
        else:
            low, start = price, found
    best = _filled(space, best, latency, budget_s, worth)
    while True:
        traded = _traded(space, best, latency, budget_s, worth)
        if traded is None:
            return best
        best = _filled(space, traded, latency, budget_s, worth)


# A new method is a function like these, and a line in one of the two.
BY_LATENCY: dict[str, Callable[[Space, Widths, Latency, float, int], dict[str, int]]] = {  # the last one is a seed
    "uniform": lambda space, widths, latency, budget_s, seed: uniform(space, widths, latency, budget_s),
    "random": at_random,
}
BY_WORTH: dict[str, Callable[[Space, Widths, Latency, float, Saliency], dict[str, int]]] = {
    "knapsack": knapsack,
}
METHODS = (*BY_LATENCY, *BY_WORTH)
OWN_SCORES = {"knapsack": "taylor"}  # the default --pruning_method of a --method, where it is not l2


def default_scores(method: str) -> str:
    """The default --pruning_method of a --method."""
    return OWN_SCORES.get(method, "l2")


# --- the knapsack's steps --------------------------------------------------------------------------------------

def _cumulative(values: Sequence[float]) -> np.ndarray:
    """worth[width]: what the best ``width`` channels are worth together."""
    return np.add.accumulate(np.array([0.0, *sorted(values, reverse=True)]))


def _at_price(space: Space, widths: Widths, latency: Latency, worth: Worth, price: float) -> dict[str, int]:
    widths = dict(widths)
    for _ in range(SWEEPS):
        before = dict(widths)
        for group, totals in worth.items():
            choices = _choices(space, widths, group, totals)
            value = totals[choices] - price * costs_along(latency, widths, group, choices)
            widths[group] = int(choices[value.argmax()])
        if widths == before:
            break
    return widths


def _choices(space: Space, widths: Widths, group: str, totals: np.ndarray) -> np.ndarray:
    """The widths that the group may get, the smallest first."""
    full = len(totals) - 1
    may_go = space.group[group].removable and space.lives({**widths, group: 0})
    return np.array([*[0] * may_go, *reversed(space.narrower(full)), full])


class Changes(NamedTuple):
    """Other widths of single groups: one entry for each in every array."""

    group: np.ndarray  # its number
    width: np.ndarray
    cost_s: np.ndarray  # of the change alone
    gain: np.ndarray  # of worth

    def of(self, which: np.ndarray) -> "Changes":
        return Changes(*(values[which] for values in self))


def _traded(space: Space, widths: Widths, latency: Latency, budget_s: float,
            worth: Worth) -> Optional[dict[str, int]]:
    """One group narrower and another wider, worth more together and within the budget; None if no such trade is found.

    The latency of a pair is first estimated from its two changes alone; of the pairs within the budget, the TRADES
    worth most are tried.
    """
    now, groups, found = latency(widths), list(worth), []
    for number, (group, totals) in enumerate(worth.items()):
        choices = _choices(space, widths, group, totals)
        choices = choices[choices != widths[group]]
        found.append(Changes(np.full(len(choices), number), choices,
                             costs_along(latency, widths, group, choices) - now,
                             totals[choices] - totals[widths[group]]))
    changes = Changes(*map(np.concatenate, zip(*found)))
    wider = changes.width > np.array([widths[g] for g in groups])[changes.group]
    less, more = changes.of(~wider), changes.of(wider)
    least = 1e-9 * sum(totals[-1] for totals in worth.values())
    for i, j in _best_pairs(less, more, budget_s - now, least):
        traded = {**widths, groups[less.group[i]]: int(less.width[i]), groups[more.group[j]]: int(more.width[j])}
        if less.group[i] != more.group[j] and latency(traded) <= budget_s:
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


def _filled(space: Space, widths: Widths, latency: Latency, budget_s: float, worth: Worth) -> dict[str, int]:
    widths = dict(widths)
    while True:
        now, found = latency(widths), []
        for group, totals in worth.items():
            choices = _choices(space, widths, group, totals)
            choices = choices[choices > widths[group]]
            then = costs_along(latency, widths, group, choices)
            rates = (totals[choices] - totals[widths[group]]) / np.maximum(then - now, 1e-12)
            found += zip(rates[then <= budget_s].tolist(), repeat(group), choices[then <= budget_s].tolist())
        if not found:
            return widths
        _, group, width = max(found)
        widths[group] = width


def out_of_reach(method: str, latency: Latency, widths: Widths, budget_s: float) -> NoWayOn:
    """The error for a budget that these widths, the least costly, do not meet."""
    short = unit_of(latency).short
    return NoWayOn(f"--method={method}: the least {unit_of(latency).quantity} is {short(latency(widths))}, asked for "
                   f"{short(budget_s)}; lower --pruning_fact")
