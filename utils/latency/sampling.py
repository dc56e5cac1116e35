"""A latency table from a small part of its entries.

Kernels work on blocks of channels, so latency has steps along a table's axes, at multiples that differ per device.
The steps are measured, not assumed: of every table the last row, the last column and scattered entries inside. Let the
last row be f(cout) and the last column g(cin). The inside is a smooth function of the two *values* f and g, which
already have the steps. It is fitted as a + b f + c g + d f g, by least squares of the relative errors. A Gaussian
process over (log f, log g) then fits what is left (Rasmussen & Williams, Gaussian Processes for Machine Learning, 2006,
section 2.2). Small tables and those of one column are measured whole.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from model.network import Network
from model.timed import Table
from utils.common.errors import UserError
from utils.latency.entries import Entries

HELD_OUT, MOST_HELD_OUT = 0.07, 1000  # part of the sample that only judges the fit
MOST_INSIDE = 2000  # scattered entries of a table; more tell nothing new
MOST_FITTED = 2000  # entries of a table that the Gaussian process rests on: its cost grows with their cube
INSIDE = 0.15  # least part of the sample inside the tables; with less, it is too small to see steps and shape
SMALL = 64  # a table of at most so many entries is measured whole
GOLDEN = (0.7548776662466927, 0.5698402909980532)  # steps of a sequence that covers the square evenly (R2)
LENGTH_SCALE = 0.5  # of the Gaussian process, in log seconds
NOISE = 0.01  # of a measurement, relative
STEP = 0.04  # neighbours in a row or column that differ by more, relative, are on two steps
WINDOW = 15  # neighbours that are averaged


@dataclass(frozen=True)
class Sample:
    """numbers: the entries to measure, ascending; held_out: for each, whether it only judges the fit."""

    numbers: np.ndarray
    held_out: np.ndarray


def choose(network: Network, part: float, seed: int) -> Sample:
    """Which entries to measure: at most this part of all. Raises UserError where that is too few to see steps."""
    entries = Entries(network)
    tables, starts = entries.tables, entries.starts
    budget = int(part * len(entries))
    held = min(int(HELD_OUT * budget), MOST_HELD_OUT)
    lines = [_lines(t) for t in tables]
    inside = budget - held - sum(len(line) for line in lines)
    if inside < INSIDE * budget:
        needed = sum(len(line) for line in lines) / (1 - HELD_OUT - INSIDE) / len(entries)
        least = np.ceil(needed * 1000) / 1000 + 0.001
        expected = "leave --sample out" if needed > 0.99 else f"expected {least:.3f} or more"
        raise UserError(f"--sample={part:g}: {budget:,} of {len(entries):,} entries are too few to see the steps of "
                        f"this network; {expected}")
    random = np.random.default_rng([seed, 3])
    weights = np.array([np.sqrt(t.rows * t.columns) if _is_plane(t) else 0.0 for t in tables])
    chosen: list[np.ndarray] = []
    for table, line, start, weight in zip(tables, lines, starts, weights / weights.sum()):
        points = _scattered(table, min(int(inside * weight), MOST_INSIDE), random)
        chosen.append(start + np.union1d(line, points))
    fit = np.concatenate(chosen)
    unmeasured = np.ones(len(entries), bool)
    unmeasured[fit] = False
    left = np.flatnonzero(unmeasured)
    judge = random.choice(left, min(held, len(left)), replace=False)
    numbers = np.union1d(fit, judge)
    return Sample(numbers, np.isin(numbers, judge))


def _is_plane(table: Table) -> bool:
    return table.columns > 1 and table.rows * table.columns > SMALL


def _lines(table: Table) -> np.ndarray:
    """Numbers within the table: its last row and last column; all where it is measured whole."""
    numbers = np.arange(table.rows * table.columns).reshape(table.shape)
    return np.union1d(numbers[-1], numbers[:, -1]) if _is_plane(table) else numbers.ravel()


def _scattered(table: Table, count: int, random: np.random.Generator) -> np.ndarray:
    """About ``count`` numbers within the table, scattered evenly, but more densely at narrow widths."""
    if not _is_plane(table):
        return np.zeros(0, np.int64)
    unit = (random.random(2) + np.outer(np.arange(count), GOLDEN)) % 1
    cell = np.floor(unit ** 1.3 * table.shape).astype(np.int64)
    return np.unique(cell[:, 0] * table.columns + cell[:, 1])


def fill(network: Network, sample: Sample, seconds: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The whole table from the seconds of the sampled entries, and what the note says of the fit.

    The error is that of a fit without the held-out entries, measured on them. The table comes from a fit to all sampled
    entries, which keep their measured values.
    """
    judged = _fill(network, sample.numbers[~sample.held_out], seconds[~sample.held_out])
    flat = np.concatenate([judged[table.key].ravel() for table in Entries(network).tables])
    error = np.abs(flat[sample.numbers[sample.held_out]] / seconds[sample.held_out] - 1)
    about = {"measured": len(sample.numbers), "of": len(flat),
             "error_on_held_out": {"entries": len(error), "median": round(float(np.median(error)), 4),
                                   "p95": round(float(np.quantile(error, 0.95)), 4)}}
    return _fill(network, sample.numbers, seconds), about


def _fill(network: Network, numbers: np.ndarray, seconds: np.ndarray) -> dict[str, np.ndarray]:
    entries = Entries(network)
    known = np.full(len(entries), np.nan)
    known[numbers] = seconds
    return {key: fill_table(array) for key, array in entries.arrays(known).items()}


def fill_table(known: np.ndarray) -> np.ndarray:
    """Complete a table [rows, columns] that is NaN where it was not measured. Its last row, its last column and some
    entries inside are known. A complete table is returned as it is."""
    measured = np.isfinite(known)
    if measured.all():
        return known
    across, down = _smooth(known[-1]) / known[-1, -1], _smooth(known[:, -1]) / known[-1, -1]
    row, column = np.nonzero(measured)
    y, f, g = known[measured], across[column], down[row]
    a, b, c, d = np.linalg.lstsq(np.stack([np.ones_like(f), f, g, f * g], 1) / y[:, None], np.ones(len(y)),
                                 rcond=None)[0]
    smooth = np.maximum(a + b * across + np.outer(down, c + d * across), y.min() / 2)
    some = _evenly(len(y), MOST_FITTED)
    rest = _gaussian_process(np.log(down), np.log(across), row[some], column[some],
                             np.log(y / smooth[measured])[some])
    return np.where(measured, known, smooth * np.exp(rest))


def _evenly(count: int, most: int) -> np.ndarray:
    """Numbers from 0 to count - 1, evenly thinned out to at most ``most``."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))


def _smooth(line: np.ndarray) -> np.ndarray:
    """The line with less noise and the same steps. It is cut where neighbours differ by more than STEP; between two
    cuts, every point is smoothed by a straight line through the WINDOW nearest."""
    cuts, smooth = np.flatnonzero(np.abs(np.diff(np.log(line))) > STEP) + 1, line.copy()
    for begin, end in zip([0, *cuts], [*cuts, len(line)]):
        for i in range(begin, end):
            near = np.arange(max(begin, i - WINDOW // 2), min(end, i + WINDOW // 2 + 1))
            if len(near) > 2:
                smooth[i] = np.polyval(np.polyfit(near - i, line[near], 1), 0)
    return smooth


def _gaussian_process(down: np.ndarray, across: np.ndarray, row: np.ndarray, column: np.ndarray,
                      values: np.ndarray) -> np.ndarray:
    """The mean of a Gaussian process at every cell of a table, [rows, columns], given ``values`` at (row, column).

    down, across: coordinates of the rows and of the columns. The kernel is a squared exponential over rows times one
    over columns, so one matrix product gives all cells.
    """
    def near(line: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.exp(-0.5 * ((line[:, None] - other[None, :]) / LENGTH_SCALE) ** 2)

    variance = max(float(values.var()), 1e-8)
    rows, columns = variance * near(down, down[row]), near(across, across[column])  # [rows or columns, values]
    weights = np.linalg.solve(rows[row] * columns[column] + NOISE ** 2 * np.eye(len(values)), values)
    return (rows * weights) @ columns.T
