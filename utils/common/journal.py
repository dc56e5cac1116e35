"""An append-only journal: the header says what the job is, every further line is one unit of work. A line is JSON, a
tab, and the CRC-32 of the JSON as eight hexadecimal digits. Journals of older versions have JSON alone.

``append`` hands a line to the system before it returns, so a killed process loses only its current unit. A crash of
the machine may leave a torn last line, which is dropped when the journal is read.
"""

import json
import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

from utils.common.checksum import note_without
from utils.common.errors import UserError
from utils.common.files import write_whole

SYNC_SECONDS = 5.0  # of work that a power failure may lose

Record = dict[str, Any]  # a JSON object


class Journal:
    """``with Journal(path) as log``: the file is open for appending inside the block."""

    def __init__(self, path: Path):
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115  (closed by __exit__)
        self._synced = time.monotonic()

    def append(self, record: Any) -> None:
        self._file.write(line(record))
        self._file.flush()
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_) -> None:
        self.sync()
        self._file.close()


def line(record: Any) -> str:
    text = json.dumps(record)
    return f"{text}\t{_crc(text.encode())}\n"


def _crc(text: bytes) -> str:
    return f"{zlib.crc32(text):08x}"


def begin(path: Path, header: Record) -> None:
    """Start an empty journal."""
    write_whole(path, line(header))


def read(path: Path) -> Optional[tuple[Record, list[Any]]]:
    """(header, records), or None where there is no journal; a torn last line is cut off the file.

    Raises UserError when a line that is not the last is broken.
    """
    if not Path(path).exists():
        return None
    lines = stream(path)
    return next(lines), list(lines)


def header(path: Path) -> Record:
    """The first record, without a look at the others or a change of the file; {} where it is missing or damaged, which
    ``read`` reports."""
    try:
        with open(path, "rb") as file:
            raw = file.readline()
    except OSError:
        return {}
    text, tab, crc = raw.rstrip(b"\n").rpartition(b"\t")
    try:
        record = json.loads(text if tab else raw)
    except (ValueError, RecursionError):
        return {}
    sound = raw.endswith(b"\n") and (not tab or crc.decode(errors="replace") == _crc(text)) and isinstance(record, dict)
    return record if sound else {}


def stream(path: Path) -> Iterator[Any]:
    """Like ``read``, but yields the header, then one record at a time: a journal may be larger than the memory."""
    path = Path(path)
    _cut_torn_line(path)
    with open(path, "rb") as file:
        number, with_crc = 0, False
        for number, raw in enumerate(file, 1):
            text, tab, crc = raw.rstrip(b"\n").rpartition(b"\t")
            if tab and crc.decode(errors="replace") != _crc(text) or with_crc and not tab:
                raise UserError(f"{path}: line {number} is damaged, it does not match its checksum; restore the file, "
                                "or remove it to begin again")
            with_crc = with_crc or bool(tab)  # an older version may have begun what this one goes on with
            try:
                record = json.loads(text if tab else raw)
            except (ValueError, RecursionError):
                raise UserError(f"{path}: line {number} is not JSON; remove the file to begin again") from None
            if number == 1 and not isinstance(record, dict):
                raise UserError(f"{path}: no journal of this project; remove the file to begin again")
            if number == 1 and not tab:
                note_without(path)
            yield record
        if not number:
            raise UserError(f"{path}: no journal of this project; remove the file to begin again")


def _cut_torn_line(path: Path, step: int = 1 << 16) -> None:
    with open(path, "rb") as file:
        end = size = file.seek(0, os.SEEK_END)
        while end:
            begin = max(end - step, 0)
            file.seek(begin)
            newline = file.read(end - begin).rfind(b"\n")
            if newline >= 0:
                end = begin + newline + 1
                break
            end = begin
    if 0 < end < size:
        os.truncate(path, end)
