"""What makes a sum of layers the time of a network, found on whole networks and kept in the table's note.

A layer timed alone pays for an invocation of its own, each time after Python's work in between, and has its weights
and its input to itself in the caches. So with a factor and an overhead, found by least squares of the relative errors
over random whole networks, a network of n layers takes factor * (sum of its entries - (n - 1) * overhead):
``note.Correction``.
"""

from collections.abc import Sequence
from typing import Union

import numpy as np

from model.network import Network, Widths
from utils.latency.note import Correction
from utils.latency.tables import LEAST, LatencyTable, output_key

NETWORKS = 30  # to fit it on
MOST_PARAMETERS = 8_000_000  # of a network to fit on: 32 MB as a file, some copies of it in memory
TRIES = 20  # to find one
FACTORS = (0.5, 2.0)  # what is outside is no correction but a disturbed measurement
OVERHEAD = 2.5  # times the smallest entries, at most
ENOUGH = 5  # networks to see an overhead on
CANDIDATES = 401  # overheads that are tried
REMOVED = 0.15  # of the removable groups, in a random network


def random_widths(network: Network, random: np.random.Generator) -> dict[str, int]:
    """Widths of a network as pruning might leave it: some blocks removed, the others around a common share."""
    share, widths = random.uniform(0.3, 1), {}
    for group in network.groups:
        if not group.prunable:
            widths[group.name] = group.width
        elif group.removable and random.random() < REMOVED:
            widths[group.name] = 0
        else:
            kept = random.uniform(max(share - 0.3, 0), min(share + 0.3, 1))
            widths[group.name] = max(round(group.width * kept), 1)
    return widths


def fitting_networks(network: Network, count: int, seed: int) -> list[dict[str, int]]:
    """The networks that a correction is fitted on: the unpruned one and random ones, from another random stream than
    those of ``judging_networks``, whatever the seeds.

    Only such as fit into little memory: of a very wide network fewer or none are found.
    """
    random, found = np.random.default_rng([seed, 1]), []
    for number in range(count * TRIES):
        widths = random_widths(network, random) if number else dict(network.full_widths)
        if len(found) < count and network.parameter_count(widths) <= MOST_PARAMETERS:
            found.append(widths)
    return found


def judging_networks(network: Network, count: int, seed: int) -> list[dict[str, int]]:
    """The networks that a table is judged on: all random."""
    random = np.random.default_rng([seed, 2])
    return [random_widths(network, random) for _ in range(count)]


def fit_correction(network: Network, widths: Sequence[Widths], seconds: Union[Sequence[float], np.ndarray],
                   table: LatencyTable) -> Correction:
    """The correction of a table as it was measured, from whole networks and the seconds they take.

    The factor is the least-squares one for an overhead, within FACTORS; the overhead is searched up to a few of the
    smallest entries: those are overhead for the most part.
    """
    measured, output = np.asarray(seconds), output_key(network)
    layers = [_entries(network, w, table) for w in widths]
    once = np.array([sum(t for key, t in found if key == output) for found in layers])
    inside = np.zeros((len(layers), max(map(len, layers))))
    for row, found in zip(inside, layers):
        row[:len(found)] = [0.0 if key == output else t for key, t in found]
    best = (np.inf, Correction(1.0, 0.0))
    smallest = np.quantile(np.concatenate([array.ravel() for array in table.values()]), 0.01)
    most = OVERHEAD * smallest if len(measured) >= ENOUGH else 0  # from too few, the factor alone
    for overhead in np.linspace(0, most, CANDIDATES):
        ratio = (np.maximum(inside - overhead, LEAST * inside).sum(1) + once) / measured
        factor = np.clip(ratio.sum() / (ratio @ ratio), *FACTORS)
        best = min(best, (float(((factor * ratio - 1) ** 2).sum()), Correction(float(factor), float(overhead))),
                   key=lambda found: found[0])
    return best[1]


def _entries(network: Network, widths: Widths, table: LatencyTable) -> list[tuple[str, float]]:
    """(key, seconds) of every live layer that the table prices."""
    priced = ((layer.node.table, layer) for layer in network.layers(widths))
    return [(key, float(table[key][network.tables[key].index(layer.cin, layer.cout)]))
            for key, layer in priced if key is not None and key in table]
