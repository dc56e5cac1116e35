"""The correction that makes the sum of a network's entries the time of the network; the table's note holds it.

A layer that is timed alone pays for a whole invocation, and Python runs between two invocations. Its weights and its
input also have the caches to themselves: a whole network reads its weights from memory in every inference, unless all
of them fit into a cache. So a network of n layers and w filter weights takes

    factor * (sum of its entries - (n - 1) * overhead) + weight_s * max(w - cached_weights, 0)

``note.Correction`` has these numbers. They are fitted on random whole networks, by least squares of relative errors.
weight_s is 0 unless networks that were not fitted to are predicted better with it, and so is cached_weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Union

import numpy as np

from model.network import Network, Widths
from utils.latency.note import Correction
from utils.latency.table_files import LatencyTable
from utils.latency.tables import LEAST, by_layer, filter_weights, latency_s, output_key

NETWORKS = 30  # to fit on
MOST_PARAMETERS = 30_000_000  # of a network to fit on: 120 MB as a file, 640 MB while it is written
EARLIER_PARAMETERS = 8_000_000  # MOST_PARAMETERS of earlier programs
TRIES = 20  # random networks drawn, at most, for each network to fit on
FACTORS = (0.5, 2.0)  # a factor outside shows a disturbed measurement
OVERHEAD = 2.5  # the largest overhead, in multiples of the smallest entries
ENOUGH = 5  # networks; with fewer, only the factor is fitted
CANDIDATES = 401  # overheads that are tried
ENOUGH_FOR_WEIGHTS = 10  # networks; with fewer, weights have no term
CACHED = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6)  # parts of the heaviest network's weights that a cache may hold
WAYS = ((), (0.0,), CACHED)  # parts that are tried: weights have no term, all of them have one, those beyond a cache
FOLDS = 6  # in which networks are predicted that were not fitted to
BETTER = 0.95  # a further way is taken where it leaves less of the error
REMOVED = 0.15  # probability that a random network lacks a removable group


def random_widths(network: Network, random: np.random.Generator, multiple_of: int = 1) -> dict[str, int]:
    """Random widths as pruning might leave them: some blocks removed, the others near a common share of full width.

    multiple_of: of the widths that are narrower than the full one.
    """
    def near(width: int, part: float) -> int:
        wanted = max(round(width * part / multiple_of), 1) * multiple_of
        return min(wanted, width)

    share, widths = random.uniform(0.3, 1), {}
    for group in network.groups:
        if not group.prunable:
            widths[group.name] = group.width
        elif group.removable and random.random() < REMOVED:
            widths[group.name] = 0
        else:
            kept = random.uniform(max(share - 0.3, 0), min(share + 0.3, 1))
            widths[group.name] = near(group.width, kept)
    for name in [name for name, width in widths.items() if not width]:
        if not network.lives(widths):  # of groups that may go each, not all may go together
            widths[name] = near(network.group[name].width, share)
    return widths


def fitting_networks(network: Network, count: int, seed: int, multiple_of: int = 1) -> list[dict[str, int]]:
    """Widths of the networks that a correction is fitted on: the unpruned one and random ones.

    The random stream differs from that of ``judging_networks`` for every seed. Networks of more than MOST_PARAMETERS
    are left out, so a very wide network gives fewer than ``count``, or none.
    """
    random, found = np.random.default_rng([seed, 1]), []
    for number in range(count * TRIES):
        widths = random_widths(network, random, multiple_of) if number else dict(network.full_widths)
        if len(found) < count and network.parameter_count(widths) <= MOST_PARAMETERS:
            found.append(widths)
    return found


def limits(network: Network) -> dict[str, int]:
    """For the header of a measurement, which earlier programs began with fewer networks if this one is wide."""
    wide = network.parameter_count(network.full_widths) > EARLIER_PARAMETERS
    return {"most_parameters": MOST_PARAMETERS} if wide else {}


def judging_networks(network: Network, count: int, seed: int, multiple_of: int = 1) -> list[dict[str, int]]:
    """Widths of the networks that a table is judged on: all random."""
    random = np.random.default_rng([seed, 2])
    return [random_widths(network, random, multiple_of) for _ in range(count)]


def fit_correction(network: Network, widths: Sequence[Widths], seconds: Union[Sequence[float], np.ndarray],
                   table: LatencyTable) -> Correction:
    """Fit the correction of ``table``, as measured, to whole networks of these ``widths`` that take ``seconds``.

    For each of CANDIDATES overheads, and each part of the weights that a cache may hold, the factor (within FACTORS)
    and weight_s are those of least squares; the best are returned. The largest overhead tried is OVERHEAD times the
    smallest entries, which are mostly overhead.
    """
    sums = _sums(network, widths, np.asarray(seconds), table)
    return _fitted(sums, _way(sums)[0])


def cross_validated(network: Network, widths: Sequence[Widths], seconds: np.ndarray,
                    table: LatencyTable) -> np.ndarray:
    """Absolute relative errors of the networks, each predicted with a correction that was fitted to others."""
    return _way(_sums(network, widths, seconds, table))[1]


@dataclass(frozen=True)
class _Sums:
    """What a table says of whole networks that were measured."""

    overheads_s: np.ndarray  # that are tried
    plain: np.ndarray  # seconds, less these overheads, [overheads, networks]
    weights: np.ndarray  # of all filters, [networks]
    measured: np.ndarray  # seconds, [networks]
    most_weights: float  # of the heaviest network

    def of(self, some: np.ndarray) -> "_Sums":
        return replace(self, plain=self.plain[:, some], weights=self.weights[some], measured=self.measured[some])

    def beyond(self, cached_weights: Union[float, np.ndarray]) -> np.ndarray:
        return np.maximum(self.weights - cached_weights, 0)

    def predicted(self, by: Correction) -> np.ndarray:
        plain = self.plain[np.searchsorted(self.overheads_s, by.overhead_s)]
        return by.factor * plain + by.weight_s * self.beyond(by.cached_weights)


def _sums(network: Network, widths: Sequence[Widths], seconds: np.ndarray, table: LatencyTable) -> _Sums:
    output = output_key(network)
    layers = [entries_of(network, w, table) for w in widths]
    once = np.array([sum(t for key, t in found if key == output) for found in layers])
    inside = np.zeros((len(layers), max(map(len, layers))))  # 0 for the output layer and beyond the last
    for row, found in zip(inside, layers):
        row[:len(found)] = [0.0 if key == output else t for key, t in found]
    smallest = np.quantile(np.concatenate([array.ravel() for array in table.values()]), 0.01)
    most_overhead_s = OVERHEAD * smallest if len(seconds) >= ENOUGH else 0.0  # else the factor alone
    overheads_s = np.linspace(0, most_overhead_s, CANDIDATES)
    plain = np.array([np.maximum(inside - o, LEAST * inside).sum(1) + once for o in overheads_s])
    of_filters = {key: filter_weights(network.tables[key]) for key in table if key in network.tables}
    weights = np.array([latency_s(network, w, of_filters) for w in widths])
    return _Sums(overheads_s, plain, weights, seconds, float(weights.max()))


def _way(sums: _Sums) -> tuple[tuple[float, ...], np.ndarray]:
    """Which of WAYS predicts networks that it was not fitted to, and the errors; a single network shows none."""
    if len(sums.measured) < 2:
        return WAYS[0], np.zeros(0)
    best = WAYS[0], _errors(sums, WAYS[0])
    for way in WAYS[1:] if len(sums.measured) >= ENOUGH_FOR_WEIGHTS else ():
        errors = _errors(sums, way)
        if errors.mean() < BETTER * best[1].mean():
            best = way, errors
    return best


def _fitted(sums: _Sums, parts: tuple[float, ...]) -> Correction:
    """parts: of the heaviest network's weights that a cache may hold; none: weights have no term."""
    cached = sums.most_weights * np.array(parts or (1.0,))
    ratio, heavy = sums.plain / sums.measured, sums.beyond(cached[:, None]) / sums.measured
    rr, r1 = (ratio ** 2).sum(1)[:, None], ratio.sum(1)[:, None]  # [overheads, 1]
    hh, h1, rh = (heavy ** 2).sum(1), heavy.sum(1), ratio @ heavy.T  # [parts], [overheads, parts]
    apart = rr * hh - rh ** 2
    weight_s = np.where(apart > 1e-12 * rr * hh, (rr * h1 - rh * r1) / np.where(apart > 0, apart, 1), 0).clip(0)
    factor = np.clip((r1 - weight_s * rh) / rr, *FACTORS)
    squares = factor ** 2 * rr + 2 * factor * weight_s * rh + weight_s ** 2 * hh - 2 * (factor * r1 + weight_s * h1)
    overhead, part = np.unravel_index(squares.argmin(), squares.shape)
    per_weight_s = float(weight_s[overhead, part])
    return Correction(float(factor[overhead, part]), float(sums.overheads_s[overhead]), per_weight_s,
                      float(cached[part]) if per_weight_s else 0.0)


def _errors(sums: _Sums, parts: tuple[float, ...]) -> np.ndarray:
    """Absolute relative errors of the networks, each predicted from a fit to the other FOLDS."""
    errors, count = np.zeros(len(sums.measured)), len(sums.measured)
    for fold in range(min(FOLDS, count)):
        out = np.arange(fold, count, FOLDS)
        found = _fitted(sums.of(np.setdiff1d(np.arange(count), out)), parts)
        errors[out] = np.abs(sums.of(out).predicted(found) / sums.measured[out] - 1)
    return errors


def entries_of(network: Network, widths: Widths, table: LatencyTable) -> list[tuple[str, float]]:
    """(key, seconds) of every live layer that the table prices, in the network's order."""
    priced = ((network.priced.get(layer.node.name), seconds) for layer, seconds in by_layer(network, widths, table))
    return [(key, seconds) for key, seconds in priced if key is not None and key in table]
