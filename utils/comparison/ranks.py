"""How well one order of networks foretells another: rank correlations, their intervals, and what a choice costs.

Every function takes sequences of a number per network. Less is better in all of them.
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

Values = Sequence[float]

TINY = 1e-12  # what rounding leaves of zero
DRAWS, LIKELY = 2000, 95.0  # of the bootstrap: samples, and the part of them that an interval holds, %


def spearman(a: Values, b: Values) -> float:
    """Spearman's rank correlation; NaN where one of both has a single value."""
    if len(a) < 2:
        return float("nan")
    return float(_correlations(np.asarray(a, float)[None], np.asarray(b, float)[None])[0])


def interval(a: Values, b: Values, seed: int = 0) -> tuple[float, float]:
    """The correlation's interval by the percentile bootstrap over networks (Efron, 1979)."""
    drawn = _drawn(len(a), seed)
    return _likely(_correlations(np.asarray(a, float)[drawn], np.asarray(b, float)[drawn]))


def advantage(a: Values, b: Values, truth: Values, seed: int = 0) -> tuple[float, float]:
    """The interval of how much better a is correlated with ``truth`` than b is, on the same networks."""
    drawn = _drawn(len(a), seed)
    of_a, of_b, right = (np.asarray(values, float)[drawn] for values in (a, b, truth))
    return _likely(_correlations(of_a, right) - _correlations(of_b, right))


def partial(a: Values, b: Values, given: Values) -> float:
    """The rank correlation of a and b that is left where ``given`` is known: the partial correlation of the ranks.
    NaN where ``given`` tells the order of one of them."""
    ab, ag, bg = spearman(a, b), spearman(a, given), spearman(b, given)
    left = (1 - ag ** 2) * (1 - bg ** 2)
    return (ab - ag * bg) / left ** 0.5 if left > TINY else float("nan")


def contested(a: Values, b: Values, truth: Values) -> tuple[int, int]:
    """Of the pairs that a and b order differently: how many a orders as ``truth`` does, and how many b does."""
    by_a, by_b, right = (np.sign(np.subtract.outer(v, v))[np.triu_indices(len(v), 1)] for v in map(np.asarray,
                                                                                               (a, b, truth)))
    differ = by_a * by_b < 0
    return int((differ & (by_a == right)).sum()), int((differ & (by_b == right)).sum())


def cost_of_choice(judge: Values, truth: Values) -> float:
    """By how much the network that is best by ``judge`` is worse than the best."""
    return float(np.asarray(truth)[np.argmin(judge)] - np.min(truth))


def _drawn(count: int, seed: int) -> np.ndarray:
    """The networks of every sample of the bootstrap: [DRAWS, count]."""
    return np.random.default_rng(seed).integers(count, size=(DRAWS, count))


def _likely(values: np.ndarray) -> tuple[float, float]:
    low, high = np.nanpercentile(values, [50 - LIKELY / 2, 50 + LIKELY / 2])
    return float(low), float(high)


def _correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of every row of a with the same row of b."""
    a, b = (rankdata(values, axis=1) for values in (a, b))
    a, b = (ranks - ranks.mean(1, keepdims=True) for ranks in (a, b))
    scale = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    return np.divide((a * b).sum(1), scale, out=np.full(len(a), np.nan), where=scale > 0)
