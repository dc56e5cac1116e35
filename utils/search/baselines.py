"""Methods to compare NetAdapt with: each chooses all widths at once and tries no candidates.

Each takes the space of the search, the network's widths, ``latency(widths)`` in seconds and a budget in seconds, and
returns widths that meet the budget. Only prunable groups get narrower, and only removable ones become 0. The same seed
gives the same widths.
Raises NoWayOn if no widths meet the budget.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Callable, Optional

import numpy as np

from model.network import Widths
from utils.search.costs import Latency, unit_of
from utils.search.netadapt import NoWayOn
from utils.search.space import Space

Saliency = Mapping[str, Sequence[float]]  # {group: worth of each channel}

FACTORS = 1000  # uniform scales in steps of 1 / FACTORS
PARTS = 16  # random takes 1 / PARTS of a group's full width at a time
TRADES = 100  # of the knapsack: pairs of groups that are tried at a time
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

def _cumulative(values: Sequence[float]) -> list[float]:
    """worth[width]: what the best ``width`` channels are worth together."""
    totals = [0.0]
    for value in sorted(values, reverse=True):
        totals.append(totals[-1] + value)
    return totals


def _at_price(space: Space, widths: Widths, latency: Latency, worth: Mapping[str, list[float]],
              price: float) -> dict[str, int]:
    widths = dict(widths)
    for _ in range(SWEEPS):
        before = dict(widths)
        for group, totals in worth.items():
            widths[group] = max(_choices(space, widths, group, totals),
                                key=lambda w: totals[w] - price * latency({**widths, group: w}))
        if widths == before:
            break
    return widths


def _choices(space: Space, widths: Widths, group: str, totals: Sequence[float]) -> list[int]:
    full = len(totals) - 1
    may_go = space.group[group].removable and space.lives({**widths, group: 0})
    return [*[0] * may_go, *reversed(space.narrower(full)), full]


def _traded(space: Space, widths: Widths, latency: Latency, budget_s: float,
            worth: Mapping[str, list[float]]) -> Optional[dict[str, int]]:
    """One group narrower and another wider, worth more together and within the budget; None if no such trade is found.

    The latency of a pair is first estimated from its two changes alone; of the pairs within the budget, the TRADES
    worth most are tried.
    """
    now = latency(widths)
    changes = [(group, width, latency({**widths, group: width}) - now, totals[width] - totals[widths[group]])
               for group, totals in worth.items() for width in _choices(space, widths, group, totals)
               if width != widths[group]]
    less, more = ([c for c in changes if (c[1] > widths[c[0]]) == wider] for wider in (False, True))
    if not less or not more:
        return None
    cost_s, gain = (np.add.outer([c[i] for c in less], [c[i] for c in more]) for i in (2, 3))
    least = 1e-9 * sum(totals[-1] for totals in worth.values())
    found = np.argwhere((gain > least) & (cost_s <= budget_s - now))
    for i, j in found[np.argsort(-gain[tuple(found.T)], kind="stable")[:TRADES]]:
        traded = {**widths, less[i][0]: less[i][1], more[j][0]: more[j][1]}
        if less[i][0] != more[j][0] and latency(traded) <= budget_s:
            return traded
    return None


def _filled(space: Space, widths: Widths, latency: Latency, budget_s: float,
            worth: Mapping[str, list[float]]) -> dict[str, int]:
    widths = dict(widths)
    while True:
        now, found = latency(widths), []
        for group, totals in worth.items():
            for width in (w for w in _choices(space, widths, group, totals) if w > widths[group]):
                then = latency({**widths, group: width})
                if then <= budget_s:
                    found.append(((totals[width] - totals[widths[group]]) / max(then - now, 1e-12), group, width))
        if not found:
            return widths
        _, group, width = max(found)
        widths[group] = width


def out_of_reach(method: str, latency: Latency, widths: Widths, budget_s: float) -> NoWayOn:
    """The error for a budget that these widths, the least costly, do not meet."""
    short = unit_of(latency).short
    return NoWayOn(f"--method={method}: the least {unit_of(latency).quantity} is {short(latency(widths))}, asked for "
                   f"{short(budget_s)}; lower --pruning_fact")
