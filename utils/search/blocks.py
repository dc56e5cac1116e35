"""Fewer blocks and narrower layers: designers of networks scale depth and width. Every stage has its own depth here.

A *block* is a branch that can go as a whole. The blocks whose outputs meet in the same residual streams are a *stage*.
"""

from itertools import product
from math import prod

from model.network import Widths
from utils.search.costs import COUNTS, Latency
from utils.search.netadapt import out_of_reach
from utils.search.space import Space

FACTORS = 1000  # of widths: a factor is so many thousandths
STEP = 10  # between the factors that are tried for every choice of blocks
MOST_CHOICES = 2000  # of numbers of blocks; where there are more, every other number of the deepest stage is left out

Block = tuple[str, ...]  # its removable groups


def best(space: Space, widths: Widths, latency: Latency, budget_s: float) -> dict[str, int]:
    """The first blocks of every stage, and one factor for all widths; at least one channel of each group stays.

    For every choice of numbers of blocks, the factor is the largest hundredth that meets the budget. Of these networks,
    the one with the most parameters counts. Raises NoWayOn if none meets the budget.
    """
    parameters, found, most = COUNTS["params"](space.network), None, -1.0
    scales = [scaled(space, widths, factor) for factor in range(FACTORS, -1, -STEP)]
    choices = _choices(space, widths)
    for gone in sorted(choices, key=lambda gone: -parameters({**widths, **gone})):
        for network in ({**scale, **gone} for scale in scales):
            count = parameters(network)
            if count <= most:  # narrower ones have even fewer
                break
            if latency(network) <= budget_s:
                found, most = network, count
                break
    if found is None:
        least = min(({**scales[-1], **gone} for gone in choices), key=latency)
        raise out_of_reach("blocks", latency, least, budget_s)
    return found


def _choices(space: Space, widths: Widths) -> list[dict[str, int]]:
    """Every choice of numbers of blocks that is a network: the groups that are gone, all 0."""
    every = stages(space, widths)
    counts = [list(range(len(stage), -1, -1)) for stage in every]
    while prod(map(len, counts)) > MOST_CHOICES:
        deepest = max(range(len(counts)), key=lambda i: len(counts[i]))
        counts[deepest] = counts[deepest][::2]
    found = ({g: 0 for stage, count in zip(every, kept) for block in stage[count:] for g in block}
             for kept in product(*counts))
    return [gone for gone in found if space.lives({**widths, **gone})]


def stages(space: Space, widths: Widths) -> list[list[Block]]:
    """The blocks of every stage, both in the network's order."""
    network = space.network
    live = {layer.node.name for layer in network.layers(widths)}
    lost: dict[frozenset[str], list[str]] = {}  # {layers that go together: the groups each of which takes them along}
    for group in (g.name for g in space.groups if g.removable and widths[g.name]):
        without = {**widths, group: 0}
        if space.lives(without):
            layers = live - {layer.node.name for layer in network.layers(without)}
            lost.setdefault(frozenset(layers), []).append(group)
    found: dict[frozenset[str], list[Block]] = {}
    for layers, groups in lost.items():
        if layers and not any(layers < others for others in lost):  # else a part of a block, such as its gate
            met = {s.group for name in layers for s in network.tensors[name].channels} & network.streams
            found.setdefault(frozenset(met), []).append(tuple(groups))
    inside = found.pop(frozenset(), [])  # of no stream: gates of what cannot go, unless the network has no streams
    return list(found.values()) or [inside] * bool(inside)


def scaled(space: Space, widths: Widths, factor: int) -> dict[str, int]:
    """Every prunable group at factor / FACTORS of its width."""
    return {g: space.at_most(w, w * factor / FACTORS) if space.group[g].prunable else w for g, w in widths.items()}
