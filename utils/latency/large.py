"""A table of few measured entries: what was measured of every operator, and the fit that fills in the rest.

Its file is a dict of arrays, numbers and plain containers, which ``pickle.load`` opens anywhere:

    {"format": 1, "operators": {key: {
        "shape": [rows, columns], "cin": [rows], "cout": [columns],     channels of the rows and of the columns
        "measured": {"cin": [n], "cout": [n], "seconds": [n]},
        "fit": {...}}}}                                                 fit.Fit.plain(); None where all was measured

An operator with a single row or column has cin 1. ``table_files.read_arrays`` gives the arrays of every width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Optional

import numpy as np

from utils.common.fingerprint import sha256_of
from utils.latency import fit as fitting
from utils.latency.fit import Fit
from utils.latency.points import Plane, tiles_of

FORMAT = 1


@dataclass(frozen=True)
class Operator:
    """cin, cout: channels of the rows and columns of its plane; numbers: of the measured entries within the plane,
    ascending; seconds: theirs."""

    shape: tuple[int, int]
    cin: np.ndarray
    cout: np.ndarray
    numbers: np.ndarray
    seconds: np.ndarray
    fit: Optional[Fit]  # None: every entry was measured

    def array(self) -> np.ndarray:
        """Seconds of every entry, [rows, columns]: as measured, or as fitted where nothing was measured."""
        if self.fit is None:
            return self.seconds.reshape(self.shape).copy()
        found = self.fit.seconds(self.cin.astype(np.float64), self.cout.astype(np.float64))
        found.ravel()[self.numbers] = self.seconds
        return found.reshape(self.shape)

    def measured(self) -> dict[str, np.ndarray]:
        row, column = self.numbers // len(self.cout), self.numbers % len(self.cout)
        return {"cin": self.cin[row], "cout": self.cout[column], "seconds": self.seconds}


Operators = Mapping[str, Operator]


def operator(plane: Plane, numbers: np.ndarray, seconds: np.ndarray,
             tiles: Optional[tuple[int, int]] = None) -> Operator:
    """What is known of an operator whose entries of these numbers, ascending, take these seconds.

    tiles: its tile sizes, if they are known; otherwise the entries show them.
    """
    if len(numbers) == len(plane):
        return Operator(plane.table.shape, plane.cin, plane.cout, numbers, seconds, None)
    tiles = tiles or tiles_of(plane, numbers, seconds)
    fit = fitting.fit(*plane.channels(numbers), seconds, tiles, plane.widest)
    return Operator(plane.table.shape, plane.cin, plane.cout, numbers, seconds, fit)


def refitted(one: Operator, numbers: np.ndarray, seconds: np.ndarray) -> Operator:
    """The same operator, with these entries, whose numbers ascend, in place of its own."""
    if len(numbers) == len(one.cin) * len(one.cout):
        return replace(one, numbers=numbers, seconds=seconds, fit=None)
    assert one.fit
    cin, cout = one.cin[numbers // len(one.cout)], one.cout[numbers % len(one.cout)]
    return replace(one, numbers=numbers, seconds=seconds,
                   fit=fitting.fit(cin, cout, seconds, one.fit.tiles, one.fit.widest))


def arrays(operators: Operators) -> dict[str, np.ndarray]:
    """Seconds of every entry: {key: [rows, columns]}."""
    return {key: found.array() for key, found in operators.items()}


def fingerprint(operators: Operators) -> str:
    """The SHA-256 of what was measured."""
    return sha256_of({f"{key} {name}": array for key, found in operators.items()
                      for name, array in found.measured().items()})


def is_plain(content: Any) -> bool:
    """Whether the content of a table's file is of this kind, rather than arrays."""
    return isinstance(content, dict) and set(content) == {"format", "operators"}


def plain(operators: Operators) -> dict[str, Any]:
    """The content of the file."""
    return {"format": FORMAT, "operators": {key: {
        "shape": list(found.shape), "cin": found.cin.astype(np.int64), "cout": found.cout.astype(np.int64),
        "measured": found.measured(), "fit": found.fit.plain() if found.fit else None}
        for key, found in operators.items()}}


def from_plain(content: Mapping[str, Any]) -> dict[str, Operator]:
    """The inverse of ``plain``. Raises ValueError, KeyError or TypeError, naming the operator."""
    if content["format"] != FORMAT:
        raise ValueError(f"its format is {content['format']!r}, this version reads {FORMAT}: update this program")
    found = {}
    for key, one in content["operators"].items():
        try:
            found[key] = _operator(one)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"{key}: {error}") from error
    if not found:
        raise ValueError("it has no operators")
    return found


def _operator(one: Mapping[str, Any]) -> Operator:
    rows, columns = (int(n) for n in one["shape"])
    cin, cout = (np.asarray(one[name], np.int64) for name in ("cin", "cout"))
    at = [np.asarray(one["measured"][name], np.int64) for name in ("cin", "cout")]
    seconds = np.asarray(one["measured"]["seconds"], np.float64)
    if len(cin) * len(cout) != rows * columns or not len(cin) or not at[0].shape == at[1].shape == seconds.shape:
        raise ValueError("expected as many channels as its shape has, and a cin, a cout and seconds for every entry")
    row, column = (np.searchsorted(axis, channels) for axis, channels in zip((cin, cout), at))
    if not (np.array_equal(cin[row % len(cin)], at[0]) and np.array_equal(cout[column % len(cout)], at[1])):
        raise ValueError("expected measured entries among its channels")
    if not len(seconds) or not np.all(np.isfinite(seconds) & (seconds > 0)):
        raise ValueError("expected positive seconds; measure or merge the table again")
    numbers = row * len(cout) + column
    fit = Fit.from_plain(one["fit"], *(a.astype(np.float64) for a in at)) if one["fit"] is not None else None
    if np.any(np.diff(numbers) <= 0) or fit is None and len(numbers) != rows * columns:
        raise ValueError("expected its entries in ascending order, and all of them where it has no fit")
    return Operator((rows, columns), cin, cout, numbers, seconds, fit)
