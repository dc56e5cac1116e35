"""The correction that makes the sum of a network's entries the time of the network; the table's note holds it.

A layer that is timed alone pays for a whole invocation, and Python runs between two invocations. Its weights and its
input also have the caches to themselves. So a network of n layers takes factor * (sum of its entries - (n - 1) *
overhead): ``note.Correction``. Both numbers are fitted on random whole networks, by least squares of relative errors.
"""

from collections.abc import Sequence
from typing import Union

import numpy as np

from model.network import Network, Widths
from utils.latency.note import Correction
from utils.latency.table_files import LatencyTable
from utils.latency.tables import LEAST, output_key

NETWORKS = 30  # to fit on
MOST_PARAMETERS = 30_000_000  # of a network to fit on: 120 MB as a file, 640 MB while it is written
EARLIER_PARAMETERS = 8_000_000  # MOST_PARAMETERS of earlier programs
TRIES = 20  # random networks drawn, at most, for each network to fit on
FACTORS = (0.5, 2.0)  # a factor outside shows a disturbed measurement
OVERHEAD = 2.5  # the largest overhead, in multiples of the smallest entries
ENOUGH = 5  # networks; with fewer, only the factor is fitted
CANDIDATES = 401  # overheads that are tried
REMOVED = 0.15  # probability that a random network lacks a removable group


def random_widths(network: Network, random: np.random.Generator) -> dict[str, int]:
    """Random widths as pruning might leave them: some blocks removed, the others near a common share of full width."""
    share, widths = random.uniform(0.3, 1), {}
    for group in network.groups:
        if not group.prunable:
            widths[group.name] = group.width
        elif group.removable and random.random() < REMOVED:
            widths[group.name] = 0
        else:
            kept = random.uniform(max(share - 0.3, 0), min(share + 0.3, 1))
            widths[group.name] = max(round(group.width * kept), 1)
    for name in [name for name, width in widths.items() if not width]:
        if not network.lives(widths):  # of groups that may go each, not all may go together
            widths[name] = max(round(network.group[name].width * share), 1)
    return widths


def fitting_networks(network: Network, count: int, seed: int) -> list[dict[str, int]]:
    """Widths of the networks that a correction is fitted on: the unpruned one and random ones.

    The random stream differs from that of ``judging_networks`` for every seed. Networks of more than MOST_PARAMETERS
    are left out, so a very wide network gives fewer than ``count``, or none.
    """
    random, found = np.random.default_rng([seed, 1]), []
    for number in range(count * TRIES):
        widths = random_widths(network, random) if number else dict(network.full_widths)
        if len(found) < count and network.parameter_count(widths) <= MOST_PARAMETERS:
            found.append(widths)
    return found


def limits(network: Network) -> dict[str, int]:
    """For the header of a measurement, which earlier programs began with fewer networks if this one is wide."""
    wide = network.parameter_count(network.full_widths) > EARLIER_PARAMETERS
    return {"most_parameters": MOST_PARAMETERS} if wide else {}


def judging_networks(network: Network, count: int, seed: int) -> list[dict[str, int]]:
    """Widths of the networks that a table is judged on: all random."""
    random = np.random.default_rng([seed, 2])
    return [random_widths(network, random) for _ in range(count)]


def fit_correction(network: Network, widths: Sequence[Widths], seconds: Union[Sequence[float], np.ndarray],
                   table: LatencyTable) -> Correction:
    """Fit the correction of ``table``, as measured, to whole networks of these ``widths`` that take ``seconds``.

    For each of CANDIDATES overheads, the factor is the least-squares one, within FACTORS; the best pair is returned.
    The largest overhead tried is OVERHEAD times the smallest entries, which are mostly overhead.
    """
    measured, output = np.asarray(seconds), output_key(network)
    layers = [_entries(network, w, table) for w in widths]
    once = np.array([sum(t for key, t in found if key == output) for found in layers])
    inside = np.zeros((len(layers), max(map(len, layers))))
    for row, found in zip(inside, layers):
        row[:len(found)] = [0.0 if key == output else t for key, t in found]
    best = (np.inf, Correction(1.0, 0.0))
    smallest = np.quantile(np.concatenate([array.ravel() for array in table.values()]), 0.01)
    most = OVERHEAD * smallest if len(measured) >= ENOUGH else 0  # else the factor alone
    for overhead in np.linspace(0, most, CANDIDATES):
        ratio = (np.maximum(inside - overhead, LEAST * inside).sum(1) + once) / measured
        factor = np.clip(ratio.sum() / (ratio @ ratio), *FACTORS)
        best = min(best, (float(((factor * ratio - 1) ** 2).sum()), Correction(float(factor), float(overhead))),
                   key=lambda found: found[0])
    return best[1]


def _entries(network: Network, widths: Widths, table: LatencyTable) -> list[tuple[str, float]]:
    """(key, seconds) of every live layer that the table prices."""
    priced = ((network.priced.get(layer.node.name), layer) for layer in network.layers(widths))
    return [(key, float(table[key][network.tables[key].index(layer.cin, layer.cout)]))
            for key, layer in priced if key is not None and key in table]
