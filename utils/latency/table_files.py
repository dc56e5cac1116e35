"""Latency tables on the disk: perf_tables/NAME.pickle and its note, perf_tables/NAME.json.

The table is a dict of key -> float64 array of seconds, [cin - 1, cout - 1]; of few entries, it is what was measured and
what fills in the rest (large.py). The note (note.py) says on which machine, with what and how it was measured, and how
a sum of entries becomes the time of a whole network. A correction of another table would be wrong without a sign of it,
so the two are one: the note has the checksum of its table. A new note waits as .NAME.json.next until its table stands,
and readers take the note that belongs to the table which they find.

Runs on Python 3.9 with NumPy.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np

from utils.common import checksum
from utils.common.errors import UserError, first_line
from utils.common.files import locate, place, write_whole
from utils.common.fingerprint import sha256_of
from utils.common.output import remark
from utils.common.pickles import read_pickle, to_pickle
from utils.common.provenance import check_format
from utils.latency import large
from utils.latency.note import FORMAT

FOLDER = "perf_tables"
OF_TABLE = "table_sha256"  # the note's key with the checksum of its table

LatencyTable = Mapping[str, np.ndarray]
Measured = Mapping[str, Union[np.ndarray, large.Operator]]  # of one kind throughout


def table_path(name: str) -> Path:
    """perf_tables/NAME.pickle; a path stays a path."""
    return locate(name, FOLDER, ".pickle")


def note_path(table: Path) -> Path:
    return Path(table).with_suffix(".json")


def _waiting(table: Path) -> Path:
    """The place of a new note until its table stands."""
    return Path(table).with_name(f".{note_path(table).name}.next")


def write_pair(path: Path, table: LatencyTable, note: Mapping[str, Any]) -> None:
    """Write a table and its note: whenever this ends, by a kill or an error too, readers find the old pair or the new
    one. Raises OSError."""
    arrays = {key: np.asarray(array, np.float64) for key, array in table.items()}
    _write(path, arrays, {**note, OF_TABLE: sha256_of(arrays)})


def write_large(path: Path, operators: large.Operators, note: Mapping[str, Any]) -> None:
    """The same for a table of few entries; its checksum in the note is over what was measured."""
    _write(path, large.plain(operators), {**note, OF_TABLE: large.fingerprint(operators)})


def _write(path: Path, content: Any, note: Mapping[str, Any]) -> None:
    file, waiting = note_path(path), _waiting(path)
    try:
        write_whole(waiting, checksum.signed_json(note))
        try:
            write_whole(path, to_pickle(content))
        except OSError:  # which comes before the table is replaced; after a Ctrl-C nobody knows, so the note stays
            waiting.unlink(missing_ok=True)
            raise
        place(waiting, file)
    except OSError as error:
        if str(error.filename) != str(path):
            error.filename, error.filename2 = str(file), None  # what the user knows
        raise


def read_pair(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of a table, in float64, and its note, {} where there is none. Raises UserError naming the file that
    cannot be read, or that is of another table."""
    measured, note = read_measured(path)
    return _arrays_of(path, measured), note


def read_measured(path: Path) -> tuple[Measured, dict[str, Any]]:
    """The same with the table as its file has it: arrays, or what was measured of every operator."""
    measured = _read_table(path)
    return measured, _note_of(Path(path), fingerprint(measured))


def read_note(path: Path) -> dict[str, Any]:
    """The note of the table at ``path``, as ``read_pair`` reads it."""
    return read_measured(path)[1]


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Seconds of every width, {key: [rows, columns]} in float64, of a table file of either kind. Raises UserError
    naming the file."""
    return _arrays_of(path, _read_table(path))


def is_large(measured: Measured) -> bool:
    return isinstance(next(iter(measured.values())), large.Operator)


def fingerprint(measured: Measured) -> str:
    """The SHA-256 of what was measured."""
    return large.fingerprint(measured) if is_large(measured) else sha256_of(measured)  # type: ignore[arg-type]


def _arrays_of(path: Path, measured: Measured) -> dict[str, np.ndarray]:
    if not is_large(measured):
        return dict(measured)  # type: ignore[arg-type]
    with np.errstate(all="ignore"):  # of a fit that was edited
        filled = large.arrays(measured)  # type: ignore[arg-type]
    return {key: _positive(path, key, array) for key, array in filled.items()}


def _read_table(path: Path) -> Measured:
    content = read_pickle(path)
    if large.is_plain(content):
        try:
            return large.from_plain(content)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise UserError(f"{path}: a table of few entries that cannot be read ({first_line(error)}); copy or "
                            "measure it again") from error
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: expected a dict of arrays, found {type(content).__name__}")
    arrays = {}
    for key, array in content.items():
        numeric = isinstance(array, np.ndarray) and array.ndim == 2 and array.dtype.kind in "fiu"
        if not isinstance(key, str) or not numeric or not array.size:
            raise UserError(f"{path}: entry {key!r}: expected a two-dimensional array of seconds, "
                            f"found {_describe(array)}")
        arrays[key] = _positive(path, key, array.astype(np.float64))
    return arrays


def _positive(path: Path, key: str, array: np.ndarray) -> np.ndarray:
    wrong = np.argwhere(~(np.isfinite(array) & (array > 0)))
    if len(wrong):
        i, j = wrong[0]
        raise UserError(f"{path}: {key}: {len(wrong)} entries are not positive seconds, first [{i}, {j}] = "
                        f"{array[i, j]}; measure or merge the table again")
    return array


def _describe(value: Any) -> str:
    return f"array of {value.dtype}{value.shape}" if isinstance(value, np.ndarray) else type(value).__name__


def _note_of(path: Path, table_sha256: str) -> dict[str, Any]:
    file = note_path(path)
    note = _read(file)
    if note is None or note.get(OF_TABLE) != table_sha256:
        waiting = _read(_waiting(path))
        if waiting and waiting.get(OF_TABLE) == table_sha256:  # a kill came between the table and its note
            note = waiting
    if note is None:
        remark(f"note: {path}: no {file.name} beside it; its sums are used without a correction")
        return {}
    if note.get(OF_TABLE, table_sha256) != table_sha256:
        raise UserError(f"{file}: the note of another table than {path.name}; restore the pair. If the table was "
                        f"replaced by hand, remove {file.name}; merge_perf_tables.py NEW {path} then gives it a "
                        "note of its own")
    return {key: value for key, value in note.items() if key != OF_TABLE}


def _read(file: Path) -> Optional[dict[str, Any]]:
    """A note's content; None where there is no file. Raises UserError, also for a newer format, whose correction this
    version does not know."""
    remedy = "restore it, or remove it to use the table without a correction"
    try:
        note = json.loads(file.read_text())
        if not isinstance(note, dict):
            raise TypeError(f"expected an object, found {type(note).__name__}")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{file}: this note cannot be read ({first_line(error)}); {remedy}") from None
    check_format(file, note, FORMAT)
    found = checksum.checked(file, note, checksum.keeps_edits(remedy))
    checksum.note_without(file, note)
    return found
