"""The latency of one operator at every width, fitted to its times at a few.

Kernels compute channels in tiles (tiles.py), and memory that is not aligned to tiles costs more. So latency is a sum of
terms f(cin) * g(cout), none of them negative: constant, linear and in tiles of several sizes, with a constant and a
line where a tile is not full. Their weights are least squares of relative errors, found by multiplicative updates (Lee
and Seung, Algorithms for non-negative matrix factorization, 2001). A Gaussian process in log seconds then fits what is
left (Rasmussen & Williams, Gaussian Processes for Machine Learning, 2006, section 2.2). Its kernel is a product of one
over cin and one over cout, so a whole table is two products of matrices.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

MULTIPLES = (0.25, 0.5, 1, 2, 4)  # of the tile size: kernels have smaller tiles for remainders, larger for many
USUAL = 16  # the middle of the sizes where no tile was found
UPDATES, RIDGE = 400, 1e-4
LENGTH, SAME_TILE, OFFSET = 0.6, 0.3, 4.0  # of the process: in log channels; per size that only one width fills
NOISE = 0.03  # of a measurement, relative
MOST_LEFT = 0.5  # of a residual, in log seconds: a disturbed time must not pull more
LEAST = 1 / 3  # of the lowest time measured, which no fitted time is below


@dataclass(frozen=True)
class Fit:
    """What is known of one operator.

    cin, cout: channels of the entries that it was fitted to; an operator with one column has cin 1 everywhere.
    """

    tiles: tuple[int, int]  # of cin and cout, channels; 1: none was found
    widest: tuple[int, int]  # channels of the operator
    cin: np.ndarray
    cout: np.ndarray
    weights: np.ndarray  # seconds, [terms of cin, terms of cout]
    least_s: float
    pull: np.ndarray  # of the Gaussian process, by entry

    def seconds(self, cin: np.ndarray, cout: np.ndarray) -> np.ndarray:
        """Of every pair of these channels, [cin, cout]."""
        (sizes_in, sizes_out), pull = self._sizes, self.pull
        plain = np.maximum(_terms_in(cin, sizes_in) @ self.weights @ _terms_out(cout, sizes_out).T, self.least_s)
        return plain * np.exp(_near(cin, self.cin, ()) * pull @ _near(cout, self.cout, sizes_out).T)

    @property
    def _sizes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return _sizes(self.tiles[0], self.widest[0]), _sizes(self.tiles[1], self.widest[1])

    def plain(self) -> dict[str, Any]:
        """Arrays and numbers alone, without the entries: for a table's file."""
        return {"tiles": list(self.tiles), "widest": list(self.widest), "weights": self.weights,
                "least_s": self.least_s, "pull": self.pull}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], cin: np.ndarray, cout: np.ndarray) -> "Fit":
        """The inverse of ``plain``. Raises KeyError, TypeError or ValueError for what ``plain`` cannot have given."""
        tiles, widest = ((int(a), int(b)) for a, b in (plain["tiles"], plain["widest"]))
        found = cls(tiles, widest, cin, cout, np.asarray(plain["weights"], np.float64), float(plain["least_s"]),
                    np.asarray(plain["pull"], np.float64))
        shape = tuple(terms(np.ones(1), sizes).shape[1] for terms, sizes in zip((_terms_in, _terms_out), found._sizes))
        if found.weights.shape != shape or found.pull.shape != cin.shape:
            raise ValueError(f"expected weights of {shape} and a pull of {cin.shape}")
        return found


def fit(cin: np.ndarray, cout: np.ndarray, seconds: np.ndarray, tiles: tuple[int, int],
        widest: tuple[int, int]) -> Fit:
    """Fit an operator to the seconds of some entries, [entries]; see ``Fit`` for the rest."""
    cin, cout = cin.astype(np.float64), cout.astype(np.float64)
    sizes_in, sizes_out = _sizes(tiles[0], widest[0]), _sizes(tiles[1], widest[1])
    ins, outs = _terms_in(cin, sizes_in), _terms_out(cout, sizes_out)
    terms = (ins[:, :, None] * outs[:, None, :]).reshape(len(cin), -1) / seconds[:, None]
    scale = terms.mean(0)
    scale[scale == 0] = 1
    weights = (_non_negative(terms / scale) / scale).reshape(ins.shape[1], outs.shape[1])
    least_s = float(seconds.min() * LEAST)
    left = np.log(seconds / np.maximum(((ins @ weights) * outs).sum(1), least_s)).clip(-MOST_LEFT, MOST_LEFT)
    variance = max(float(left.var()), 1e-6)
    alike = variance * _near(cin, cin, ()) * _near(cout, cout, sizes_out)
    pull = variance * np.linalg.solve(alike + NOISE ** 2 * np.eye(len(left)), left)
    return Fit(tiles, widest, cin, cout, weights, least_s, pull)


def _sizes(tile: int, widest: int) -> tuple[int, ...]:
    """Tile sizes that the terms have."""
    middle = USUAL if tile == 1 else tile
    found = (middle * m for m in MULTIPLES)
    return tuple(int(s) for s in found if s == int(s) and 2 <= s <= max(widest / 2, 2)) or (2,)


def _terms_in(channels: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """[channels, terms]"""
    return np.stack([np.ones(len(channels)), channels, *(_filled(channels, s) for s in sizes)], 1)


def _terms_out(channels: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """The same, with terms for tiles that are not full."""
    rest = [channels % s != 0 for s in sizes]
    return np.concatenate([_terms_in(channels, sizes), np.stack([*rest, *(r * channels for r in rest)], 1)], 1)


def _filled(channels: np.ndarray, size: int) -> np.ndarray:
    """Channels, rounded up to whole tiles."""
    return np.ceil(channels / size) * size


def _non_negative(terms: np.ndarray) -> np.ndarray:
    """Weights that are not negative and make the sum of terms, [entries, terms], as near to 1 as can be."""
    gram, ones = terms.T @ terms, terms.sum(0)
    gram += RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    weights = np.full(len(ones), ones.sum() / gram.sum())
    for _ in range(UPDATES):
        weights = weights * ones / np.maximum(gram @ weights, 1e-300)
    return weights


def _near(channels: np.ndarray, others: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """How alike two widths are, 0 to 1, [channels, others]: as near as in log channels, in whole tiles too, and as full
    as each other."""
    far = _squares(np.log(channels + OFFSET), np.log(others + OFFSET)) / LENGTH ** 2
    if sizes:
        middle = sizes[len(sizes) // 2]
        far += _squares(*(np.log(_filled(c, middle) + OFFSET) for c in (channels, others))) / LENGTH ** 2
        far += 2 * SAME_TILE * sum(_squares(channels % s == 0, others % s == 0) for s in sizes[-4:])
    return np.exp(-0.5 * far)


def _squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a.astype(np.float64)[:, None] - b.astype(np.float64)[None, :]) ** 2
