"""Entries that other tables have measured, on the same device with the same tool: they need not be measured again."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import numpy as np

from model.network import Network
from utils.common.errors import UserError
from utils.latency import points
from utils.latency.entries import Entries
from utils.latency.large import Operator
from utils.latency.note import Note, differences, plain_dict, reported_differences
from utils.latency.points import Plane
from utils.latency.table_files import read_measured
from utils.latency.told import numbers_of, pairs_in

NEEDED = ("device", "runtime", "threads")  # that a note has to tell
USUAL_TILE = 16  # at whose multiples a dense table is read


def entries(network: Network, paths: Sequence[Path], now: Note) -> dict[str, dict[int, float]]:
    """By table, the seconds by number of the entries of ``network`` that it has measured and none before it.

    now: how this measurement is made, under a note's keys. Raises UserError for a table that was measured otherwise, or
    has no operator of the network.
    """
    found: dict[str, dict[int, float]] = {}
    numbered = Entries(network)
    for path in paths:
        measured, note = read_measured(path)
        for line in differences(note, now, "now"):
            raise UserError(f"{path}: {line}; leave it out of --reuse")
        if not note:
            raise UserError(f"{path}: no note says how it was measured; leave it out of --reuse")
        for key in NEEDED:
            if key not in note:
                raise UserError(f"{path.with_suffix('.json')}: it does not tell the {key}, as where measurements of "
                                "two were merged; leave the table out of --reuse")
        reported_differences(path, note, now, "now")
        words, here, offered, shared = plain_dict(note.get("operators")), dict[int, float](), 0, 0
        known = {number for of_table in found.values() for number in of_table}
        for table, start in zip(numbered.tables, numbered.starts):
            if words.get(table.key) != table.operator or table.key not in measured:
                continue
            plane, shared = Plane(table), shared + 1
            of_table = measured[table.key]
            told = None if isinstance(of_table, Operator) else pairs_in(path, note, table.key)
            numbers, seconds = _of_operator(plane, of_table, told)
            offered += len(numbers)
            here.update((int(start) + number, value) for number, value in zip(numbers.tolist(), seconds.tolist())
                        if int(start) + number not in known)
        if not offered:
            raise UserError(f"{path}: it has measured no operator of {network.title}; leave it out of --reuse")
        print(f"{path}: {len(here):,} entries of {shared} operators are reused", file=sys.stderr)
        found.setdefault(f"{path}", here)
    return found


def _of_operator(plane: Plane, measured, told: Optional[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers within the plane and their seconds, as another table has measured them. told: of an array, its measured
    entries, [entries, (cin, cout)]; None: all."""
    if isinstance(measured, Operator):
        of = measured.measured()
        return _within(plane, of["cin"], of["cout"], of["seconds"])
    if told is not None:
        numbers = numbers_of(plane.table, told)
    elif measured.shape[0] < plane.table.rows or measured.shape[1] < plane.table.columns:
        return np.zeros(0, np.int64), np.zeros(0)  # it is narrower
    else:
        first = points.first(plane)
        numbers = np.union1d(first, points.more(plane, USUAL_TILE, first.tolist(), points.PLANE, 0))
    rows, columns = numbers // plane.table.columns, numbers % plane.table.columns
    here = (rows < measured.shape[0]) & (columns < measured.shape[1])
    return numbers[here], measured[rows[here], columns[here]]


def _within(plane: Plane, cin: np.ndarray, cout: np.ndarray,
            seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Those whose channels the plane has."""
    row, column = np.searchsorted(plane.cin, cin), np.searchsorted(plane.cout, cout)
    row, column = np.minimum(row, len(plane.cin) - 1), np.minimum(column, len(plane.cout) - 1)
    here = (plane.cin[row] == cin) & (plane.cout[column] == cout)
    numbers = (row * len(plane.cout) + column)[here]
    order = np.argsort(numbers)
    return numbers[order], seconds[here][order]
