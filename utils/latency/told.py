"""Which entries were measured, in a note's words: arrays do not tell it, as they have estimates for the others.

    "sampling": {"entries": {"No_Stride_3": "3->16 40->9", "FC": "64->10"}}        cin->cout, by key
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np

from model.network import Network
from model.timed import Table
from utils.common.errors import UserError
from utils.common.journal import Record
from utils.latency.entries import Entries
from utils.latency.note import Note, plain_dict

PAIRS = re.compile(r"(\d{1,9}->\d{1,9}( \d{1,9}->\d{1,9})*)?")


def in_words(labels: Iterable[Sequence[Any]]) -> dict[str, str]:
    """Entries (key, cin, cout) by their tables: {key: "cin->cout cin->cout ..."}."""
    found: dict[str, list[str]] = {}
    for key, cin, cout in labels:
        found.setdefault(key, []).append(f"{cin}->{cout}")
    return {key: " ".join(entries) for key, entries in found.items()}


def sampled(entries: Entries, numbers: Iterable[int]) -> Record:
    """What ``sampling`` of a note says of the entries with these numbers."""
    found = (entries[int(number)] for number in numbers)
    return {"entries": in_words((table.key, cin, cout) for table, cin, cout in found)}


def pairs_in(path: Path, note: Note, key: str) -> Optional[np.ndarray]:
    """The entries of an array that were measured, [entries, (cin, cout)]; None: all were. Raises UserError where the
    note of the table at ``path`` does not tell."""
    sampling = _sampling(note)
    if sampling is None:
        return None
    name, told = path.with_suffix(".json"), sampling.get("entries")
    if not isinstance(told, dict):
        raise UserError(f"{name}: it does not tell which entries were measured: an older version, or smoothing, made "
                        "the table; leave it out")
    words = told.get(key, "")
    if not isinstance(words, str) or not PAIRS.fullmatch(words):
        raise UserError(f"{name}: sampling, entries, {key}: expected pairs such as 3->16 between spaces, found "
                        f"{str(words)[:40]!r}; leave the table out")
    return np.array([[int(n) for n in pair.split("->")] for pair in words.split()], np.int64).reshape(-1, 2)


def numbers_of(table: Table, pairs: np.ndarray) -> np.ndarray:
    """Numbers within the table, ascending, of those of these entries, [entries, (cin, cout)], that it has."""
    found = set()
    for cin, cout in pairs.tolist():
        row, column = table.index(cin, cout)
        number = row * table.columns + column
        if 0 <= row < table.rows and 0 <= column < table.columns and table.entry(number) == (cin, cout):
            found.add(number)
    return np.array(sorted(found), np.int64)


def all_tell(notes: Iterable[Note], network: Network, table: Mapping[str, np.ndarray]) -> bool:
    """Whether these notes tell which entries were measured, of tables that are as large as this one, of the network."""
    shapes = {key: of.shape for key, of in network.tables.items()}
    told = (sampling is None or isinstance(sampling.get("entries"), dict) for sampling in map(_sampling, notes))
    return all(shapes.get(key) == array.shape for key, array in table.items()) and all(told)


def is_sampled(note: Note) -> bool:
    """Whether some entries of the table may be estimates."""
    return _sampling(note) is not None


def _sampling(note: Note) -> Optional[Record]:
    """What a note says of its sample; None: all was measured. Older versions merged and smoothed without a word."""
    if "sampling" in note:
        return plain_dict(note["sampling"])
    each = note.get("measurements")
    before = any(isinstance(one, dict) and is_sampled(one) for one in each) if isinstance(each, list) else False
    return {} if before or plain_dict(note.get("merged")).get("sigma") else None


def masks_of(path: Path, note: Note, network: Network) -> dict[str, np.ndarray]:
    """By key, where the table at ``path`` has measured entries of the network: True, in an array of its shape."""
    found = {}
    for key, table in network.tables.items():
        pairs, mask = pairs_in(path, note, key), np.ones(table.rows * table.columns, bool)
        if pairs is not None:
            mask = np.isin(np.arange(len(mask)), numbers_of(table, pairs))
        found[key] = mask.reshape(table.shape)
    return found
