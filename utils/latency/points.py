"""Which entries of an operator to measure, where few must do: runs that show its tiles, then points in between.

The same operator gets the same points in every network that has it as wide, so that tables can share them.
"""

import zlib
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from model.timed import Table
from utils.latency import tiles

PLANE, LINE = 24, 12  # entries that fill an operator whose cin and cout vary, and another one
SMALL = 40  # an operator of at most so many entries is measured whole
OTHER = 96  # channels at which the other side stands while a run goes along one side
GOLDEN = (0.7548776662466927, 0.5698402909980532)  # steps of a sequence that covers the square evenly (R2)
NARROWEST = 0.02  # of the full width: below it an operator costs little, whatever it is


@dataclass(frozen=True)
class Plane:
    """The entries of an operator as [cin, cout], in true channels. One with a single row or column has 1 for cin.

    multiple_of: a network gets only widths that are multiples of it, and the full ones; others are not measured.
    """

    table: Table
    multiple_of: int = 1

    @cached_property
    def cin(self) -> np.ndarray:
        rows, columns = self.table.shape
        whole = rows > 1 and columns > 1
        return np.array([self.table.entry(i * columns)[0] for i in range(rows)]) if whole else np.ones(1, np.int64)

    @cached_property
    def cout(self) -> np.ndarray:
        rows, columns = self.table.shape
        if columns > 1:
            return np.array([self.table.entry(j)[1] for j in range(columns)])
        which = 0 if self.table.free else 1
        return np.array([self.table.entry(i)[which] for i in range(rows)])

    def __len__(self) -> int:
        return len(self.cin) * len(self.cout)

    @property
    def widest(self) -> tuple[int, int]:
        return int(self.cin[-1]), int(self.cout[-1])

    def channels(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """cin and cout of the entries with these numbers within the table."""
        return self.cin[numbers // len(self.cout)], self.cout[numbers % len(self.cout)]

    @cached_property
    def rows(self) -> np.ndarray:
        """Indices of the cin that may be measured."""
        return self._allowed(self.cin)

    @cached_property
    def columns(self) -> np.ndarray:
        """Indices of the cout that may be measured."""
        return self._allowed(self.cout)

    def _allowed(self, channels: np.ndarray) -> np.ndarray:
        widths = np.arange(1, len(channels) + 1)
        return np.flatnonzero((widths % self.multiple_of == 0) | (widths == len(widths)))

    def run_out(self) -> np.ndarray:
        """Numbers of a run along cout."""
        row = self.rows[_other(self.cin[self.rows])]
        return row * len(self.cout) + self.columns[tiles.run(self.cout[self.columns])]

    def run_in(self) -> np.ndarray:
        """Numbers of a run along cin."""
        column = self.columns[_other(self.cout[self.columns])]
        return self.rows[tiles.run(self.cin[self.rows])] * len(self.cout) + column

    @property
    def room(self) -> int:
        """How many entries may be measured."""
        return len(self.rows) * len(self.columns)

    def all(self) -> np.ndarray:
        """Their numbers, ascending."""
        return (self.rows[:, None] * len(self.cout) + self.columns).ravel()

    def left(self, numbers: np.ndarray) -> int:
        """How many of them are not among these numbers, which may have others, too."""
        return self.room - int(np.isin(self.all(), numbers).sum())


def _other(channels: np.ndarray) -> int:
    """Index of where one side stands while a run goes along the other."""
    return min(int(np.searchsorted(channels, OTHER)), len(channels) - 1)


def first(plane: Plane) -> np.ndarray:
    """Numbers, ascending, of the entries that show the tiles, and of the corners; all of a small operator."""
    rows, columns = len(plane.rows), len(plane.columns)
    if rows * columns <= SMALL:
        return plane.all()
    corners = [plane.rows[row] * len(plane.cout) + plane.columns[column] for row in {0, rows // 16, rows - 1}
               for column in {0, columns // 16, columns - 1}
               if row == rows - 1 or column == columns - 1 or not row + column]
    runs = [plane.run_out(), *([plane.run_in()] if rows > 1 else [])]
    return np.unique(np.concatenate([corners, *runs]))


def more(plane: Plane, tile: int, known: Collection[int], count: int, seed: int) -> np.ndarray:
    """Numbers, ascending, of ``count`` further entries that fill the plane evenly, every other one at a multiple of the
    tile of cout. ``known``: entries that are measured already."""
    found, taken = [], set(known)
    random = np.random.default_rng([seed, zlib.crc32(plane.table.key.encode())])
    offset, number = random.random(2), 0
    couts = plane.cout[plane.columns]
    while len(found) < count:
        part = NARROWEST + (1 - NARROWEST) * ((offset + number * np.array(GOLDEN)) % 1)
        row, column = (int(p * len(c)) for p, c in zip(part, (plane.rows, plane.columns)))
        if number % 2 and tile > 1:
            whole = max(round(couts[column] / tile), 1) * tile
            column = min(int(np.searchsorted(couts, whole)), len(couts) - 1)
        new, number = int(plane.rows[row]) * len(plane.cout) + int(plane.columns[column]), number + 1
        if number > 8 * plane.room:  # what is left, if anything, is nowhere near the sequence
            rest = [n for n in plane.all().tolist() if n not in taken][:count - len(found)]
            return np.unique([*found, *rest]).astype(np.int64)
        if new not in taken:
            found.append(new)
            taken.add(new)
    return np.array(sorted(found), np.int64)


def tiles_of(plane: Plane, numbers: np.ndarray, seconds: np.ndarray) -> tuple[int, int]:
    """Tile sizes of cin and cout, from the measured runs among these entries, whose numbers ascend."""
    def size(run: np.ndarray, channels: np.ndarray) -> int:
        here = np.isin(numbers, run) & np.isfinite(seconds)
        return tiles.found(channels[here].astype(np.float64), seconds[here])

    cin, cout = plane.channels(numbers)
    along_in = size(plane.run_in(), cin) if len(plane.cin) > 1 else 1
    return along_in, size(plane.run_out(), cout)
