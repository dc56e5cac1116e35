"""Methods to compare the searches with: each chooses all widths at once and tries no candidates.

Each takes the space of the search, the network's widths, ``latency(widths)`` in seconds and a budget in seconds, and
returns widths that meet the budget. Only prunable groups get narrower, and only removable ones become 0. The same seed
gives the same widths.
Raises NoWayOn if no widths meet the budget.
"""

import random
from dataclasses import replace
from math import lcm
from typing import Callable, Optional

from model.network import Widths
from utils.search import blocks
from utils.search.blocks import FACTORS, scaled
from utils.search.costs import COUNTS, Latency
from utils.search.knapsack import ChannelWorth, CountWorth, Knapsack, Saliency, filled, solved
from utils.search.netadapt import out_of_reach
from utils.search.space import Space

ROUNDINGS = (1, 4, 8, 16)  # uniform_filled tries widths that are multiples of each
PARTS = 16  # random takes 1 / PARTS of a group's full width at a time


def uniform(space: Space, widths: Widths, latency: Latency, budget_s: float) -> dict[str, int]:
    """Scale every prunable group by the largest factor that meets the budget; at least 1 channel of each stays."""
    found = _largest_factor(space, widths, latency, budget_s)
    if found is None:
        raise out_of_reach("uniform", latency, scaled(space, widths, 0), budget_s)
    return found


def uniform_filled(space: Space, widths: Widths, latency: Latency, budget_s: float) -> dict[str, int]:
    """``uniform``, but aware of latency steps.

    1. The widths of ``uniform`` are made for multiples of each of ROUNDINGS.
    2. Their groups get wider while the budget allows it, the most parameters per second first.
    3. Of the roundings, the one with the most parameters counts.
    """
    count = CountWorth(COUNTS["params"](space.network))
    sack = Knapsack("uniform_filled", replace(space, floor=0.0), widths, latency, budget_s, count, _prunable(space))
    starts = [_largest_factor(replace(space, multiple_of=lcm(space.multiple_of, rounding)), widths, latency, budget_s)
              for rounding in ROUNDINGS]
    found = [filled(sack, start) for start in starts if start]
    if not found:
        raise out_of_reach("uniform_filled", latency, scaled(space, widths, 0), budget_s)
    return max(found, key=count)


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
    """
    groups = tuple(g for g in saliency if space.group[g].prunable)
    worth = ChannelWorth({g: saliency[g] for g in groups})
    return solved(Knapsack("knapsack", space, widths, latency, budget_s, worth, groups))


def most(count: str, space: Space, widths: Widths, latency: Latency, budget_s: float) -> dict[str, int]:
    """The widths with the most of a count within the budget, found as those of the knapsack; count: one of COUNTS."""
    worth = CountWorth(COUNTS[count](space.network))
    return solved(Knapsack(count, space, widths, latency, budget_s, worth, _prunable(space)))


# A new method is a function like these, and a line in one of the two.
BY_LATENCY: dict[str, Callable[[Space, Widths, Latency, float, int], dict[str, int]]] = {  # the last one is a seed
    "uniform": lambda space, widths, latency, budget_s, seed: uniform(space, widths, latency, budget_s),
    "uniform_filled": lambda space, widths, latency, budget_s, seed: uniform_filled(space, widths, latency, budget_s),
    "blocks": lambda space, widths, latency, budget_s, seed: blocks.best(space, widths, latency, budget_s),
    "random": at_random,
    "params": lambda space, widths, latency, budget_s, seed: most("params", space, widths, latency, budget_s),
    "macs": lambda space, widths, latency, budget_s, seed: most("macs", space, widths, latency, budget_s),
}
BY_WORTH: dict[str, Callable[[Space, Widths, Latency, float, Saliency], dict[str, int]]] = {
    "knapsack": knapsack,
}
METHODS = (*BY_LATENCY, *BY_WORTH)
OWN_SCORES = {"knapsack": "taylor"}  # the default --pruning_method of a --method, where it is not l2
OWN_FLOORS = {"params": 0.25, "macs": 0.25, "trade": 0.25}  # the default --floor of a --method, where it is not 0


def default_scores(method: str) -> str:
    """The default --pruning_method of a --method."""
    return OWN_SCORES.get(method, "l2")


def default_floor(method: str) -> float:
    """The default --floor of a --method."""
    return OWN_FLOORS.get(method, 0.0)


# --- steps -----------------------------------------------------------------------------------------------------

def _largest_factor(space: Space, widths: Widths, latency: Latency, budget_s: float) -> Optional[dict[str, int]]:
    """The widths scaled by the largest factor that meets the budget; None if none does."""
    networks = (scaled(space, widths, factor) for factor in range(FACTORS, -1, -1))
    return next((found for found in networks if latency(found) <= budget_s), None)


def _prunable(space: Space) -> tuple[str, ...]:
    return tuple(g.name for g in space.groups if g.prunable)
