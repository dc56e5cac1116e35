"""Entries that other tables have measured, on the same device with the same tool: they need not be measured again."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import numpy as np

from model.network import Network
from model.timed import Table
from utils.common.errors import UserError
from utils.latency import points
from utils.latency.entries import Entries
from utils.latency.large import Operator
from utils.latency.note import Note, differences, plain_dict
from utils.latency.points import Plane
from utils.latency.table_files import read_measured

PAIRS = re.compile(r"(\d{1,9}->\d{1,9}( \d{1,9}->\d{1,9})*)?")  # cin->cout, in a note
USUAL_TILE = 16  # at whose multiples a dense table is read


def entries(network: Network, paths: Sequence[Path], now: Note) -> dict[int, float]:
    """Seconds by number, of the entries of ``network`` that these tables have measured; the first table counts.

    now: how this measurement is made, under a note's keys. Raises UserError for a table that was measured otherwise, or
    has no operator of the network.
    """
    found: dict[int, float] = {}
    numbered = Entries(network)
    for path in paths:
        measured, note = read_measured(path)
        for line in differences(note, now, "now"):
            raise UserError(f"{path}: {line}; leave it out of --reuse")
        if not note:
            raise UserError(f"{path}: no note says how it was measured; leave it out of --reuse")
        words, before, offered, shared = plain_dict(note.get("operators")), len(found), 0, 0
        for table, start in zip(numbered.tables, numbered.starts):
            if words.get(table.key) != table.operator or table.key not in measured:
                continue
            plane, shared = Plane(table), shared + 1
            numbers, seconds = _of_operator(plane, measured[table.key], _told(path, note, table.key))
            offered += len(numbers)
            for number, value in zip(numbers.tolist(), seconds.tolist()):
                found.setdefault(int(start) + number, value)
        if not offered:
            raise UserError(f"{path}: it has measured no operator of {network.title}; leave it out of --reuse")
        print(f"{path}: {len(found) - before:,} entries of {shared} operators are reused", file=sys.stderr)
    return found


def _told(path: Path, note: Note, key: str) -> Optional[np.ndarray]:
    """What a note says of the entries of an array that were measured, [entries, (cin, cout)]; None: all were."""
    if "sampling" not in note:
        return None
    words = plain_dict(plain_dict(note["sampling"]).get("entries")).get(key, "")  # older versions do not say
    if not isinstance(words, str) or not PAIRS.fullmatch(words):
        raise UserError(f"{path.with_suffix('.json')}: sampling, entries, {key}: expected pairs such as 3->16 between "
                        f"spaces, found {str(words)[:40]!r}; leave the table out of --reuse")
    return np.array([[int(n) for n in pair.split("->")] for pair in words.split()], np.int64).reshape(-1, 2)


def _of_operator(plane: Plane, measured, told: Optional[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers within the plane and their seconds, as another table has measured them. told: of an array, its measured
    entries, [entries, (cin, cout)]; None: all."""
    if isinstance(measured, Operator):
        of = measured.measured()
        return _within(plane, of["cin"], of["cout"], of["seconds"])
    if told is not None:
        numbers = _numbers(plane.table, told)
    elif measured.shape[0] < plane.table.rows or measured.shape[1] < plane.table.columns:
        return np.zeros(0, np.int64), np.zeros(0)  # it is narrower
    else:
        first = points.first(plane)
        numbers = np.union1d(first, points.more(plane, USUAL_TILE, first.tolist(), points.PLANE, 0))
    rows, columns = numbers // plane.table.columns, numbers % plane.table.columns
    here = (rows < measured.shape[0]) & (columns < measured.shape[1])
    return numbers[here], measured[rows[here], columns[here]]


def _numbers(table: Table, told: np.ndarray) -> np.ndarray:
    """Of those among these entries, [entries, (cin, cout)], that the table has."""
    found = set()
    for cin, cout in told.tolist():
        row, column = table.index(cin, cout)
        number = row * table.columns + column
        if 0 <= row < table.rows and 0 <= column < table.columns and table.entry(number) == (cin, cout):
            found.add(number)
    return np.array(sorted(found), np.int64)


def _within(plane: Plane, cin: np.ndarray, cout: np.ndarray,
            seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Those whose channels the plane has."""
    row, column = np.searchsorted(plane.cin, cin), np.searchsorted(plane.cout, cout)
    row, column = np.minimum(row, len(plane.cin) - 1), np.minimum(column, len(plane.cout) - 1)
    here = (plane.cin[row] == cin) & (plane.cout[column] == cout)
    numbers = (row * len(plane.cout) + column)[here]
    order = np.argsort(numbers)
    return numbers[order], seconds[here][order]
