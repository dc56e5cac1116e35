"""What a measurement of few entries has found so far: every operator, fitted, and how good predictions are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Optional

import numpy as np

from model.network import Network, Widths
from utils.common.journal import Record
from utils.latency import correction, large, points
from utils.latency import fit as fitting
from utils.latency.entries import Entries
from utils.latency.large import Operator
from utils.latency.points import Plane
from utils.latency.tables import latency_s

FOLDS = 5  # of the judging of entries

Measured = Mapping[str, tuple[np.ndarray, np.ndarray]]  # numbers within each operator, ascending, and their seconds


@dataclass(frozen=True)
class Planes:
    """The operators of a network, and where the entries of each stand among all."""

    network: Network
    multiple_of: int = 1

    @cached_property
    def entries(self) -> Entries:
        return Entries(self.network)

    @cached_property
    def of(self) -> dict[str, Plane]:
        return {t.key: Plane(t, self.multiple_of) for t in self.entries.tables}

    @cached_property
    def start(self) -> dict[str, int]:
        return {t.key: int(s) for t, s in zip(self.entries.tables, self.entries.starts)}

    def all(self, by_key: Mapping[str, np.ndarray]) -> np.ndarray:
        """Numbers among all entries, from numbers within each operator."""
        return np.concatenate([np.zeros(0, np.int64), *(numbers + self.start[key] for key, numbers in by_key.items())])

    def by_key(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """The inverse of ``all``: {key: numbers within each operator}, in the order given."""
        which = self.entries.table_of(numbers)
        return {key: numbers[which == i] - self.start[key] for i, key in enumerate(self.of)}

    def labels(self, by_key: Mapping[str, np.ndarray]) -> dict[str, list[list[int]]]:
        """{key: [[cin, cout], ...]}, for the journal."""
        return {key: [list(map(int, self.of[key].table.entry(int(n)))) for n in numbers]
                for key, numbers in by_key.items() if len(numbers)}

    def first(self) -> dict[str, np.ndarray]:
        return {key: points.first(plane) for key, plane in self.of.items()}


@dataclass(frozen=True)
class Known:
    """What the measurement has found so far."""

    operators: Mapping[str, Operator]
    table: Mapping[str, np.ndarray]  # seconds of every entry, as they give it
    errors: Mapping[str, np.ndarray]  # of the entries of each that fill its plane, predicted without them
    expected: Optional[float]  # mean relative error of whole networks; None: the time ended before anything tells it
    worst: Optional[float]  # of one of them

    def about(self) -> dict[str, Any]:
        """For the note."""
        errors = np.concatenate([np.abs(e) for e in self.errors.values()] or [np.zeros(0)])
        held: Record = {"entries": len(errors)}
        if len(errors):
            held.update(median=round(float(np.median(errors)), 4), p95=round(float(np.quantile(errors, 0.95)), 4))
        return {"measured": sum(len(o.numbers) for o in self.operators.values()),
                "of": sum(len(o.cin) * len(o.cout) for o in self.operators.values()), "error_on_held_out": held,
                "expected_error": _rounded(self.expected), "expected_worst": _rounded(self.worst),
                "tiles": {key: list(o.fit.tiles) for key, o in self.operators.items() if o.fit}}


def known(planes: Planes, measured: Measured, widths: Sequence[Widths], seconds: np.ndarray) -> Known:
    """What these entries tell, and whole networks of these ``widths`` that take ``seconds``."""
    operators = {key: large.operator(planes.of[key], *of) for key, of in measured.items()}
    errors = {key: _judged(planes.of[key], one) for key, one in operators.items() if one.fit}
    table = large.arrays(operators)
    untold = any(not len(of_key) and planes.of[key].left(operators[key].numbers) for key, of_key in errors.items())
    expected = (None, None) if untold and len(widths) < correction.ENOUGH else _expected(
        planes.network, table, errors, widths, seconds)
    return Known(operators, table, errors, *expected)


def shares(network: Network, table: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The part of the unpruned network's time that each operator takes."""
    total = latency_s(network, network.full_widths, table)
    found: dict[str, float] = {}
    for key, seconds in correction.entries_of(network, network.full_widths, table):
        found[key] = found.get(key, 0.0) + seconds / total
    return found


def _expected(network: Network, table: Mapping[str, np.ndarray], errors: Mapping[str, np.ndarray],
              widths: Sequence[Widths], seconds: np.ndarray) -> tuple[float, float]:
    """Mean and largest error of whole networks. Without any, as if the errors of all entries of an operator went one
    way; an operator of which everything is measured has none."""
    if len(widths) >= correction.ENOUGH:
        found = correction.cross_validated(network, widths, seconds, table)
        return float(found.mean()), float(found.max())
    share = shares(network, table)
    mean = sum(share.get(key, 0.0) * float(np.abs(found).mean()) for key, found in errors.items() if len(found))
    return mean, mean


def _judged(plane: Plane, one: Operator) -> np.ndarray:
    """Errors, in log seconds, of the entries that fill the plane, each predicted by a fit to four fifths of the others.
    """
    assert one.fit
    filling = np.flatnonzero(~np.isin(one.numbers, points.first(plane)))
    cin, cout = plane.channels(one.numbers)
    errors = np.zeros(len(filling))
    for fold in range(min(FOLDS, len(filling))):
        out = filling[fold::FOLDS]
        rest = np.setdiff1d(np.arange(len(one.numbers)), out)
        fit = fitting.fit(cin[rest], cout[rest], one.seconds[rest], one.fit.tiles, plane.widest)
        for place, entry in zip(range(fold, len(filling), FOLDS), out):
            predicted = fit.seconds(cin[[entry]].astype(float), cout[[entry]].astype(float))
            errors[place] = np.log(predicted[0, 0] / one.seconds[entry])
    return errors


def _rounded(error: Optional[float]) -> Optional[float]:
    return None if error is None else round(error, 4)
