"""An append-only journal of JSON lines: the header says what the job is, every further line is one unit of work.

A line is on its way to the disk when ``append`` returns, so a killed process loses nothing but the unit in hand; a
torn last line, left by a crash of the machine, is dropped when the journal is read.
"""

import json
import os
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from utils.errors import UserError
from utils.files import write_whole

SYNC_SECONDS = 5.0  # how much a power failure may cost


class Journal:
    def __init__(self, path: Path):
        self.path = Path(path)
        self._file = open(self.path, "a", encoding="utf-8")
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
    return json.dumps(record) + "\n"


def begin(path: Path, header: Dict[str, Any]) -> None:
    """Start an empty journal."""
    write_whole(path, line(header))


def read(path: Path) -> Optional[Tuple[Dict[str, Any], List[Any]]]:
    """(header, records), or None where there is no journal; a torn last line is cut off the file.

    Raises UserError when a line that is not the last is broken.
    """
    path = Path(path)
    if not path.exists():
        return None
    raw = path.read_bytes()
    whole, torn = raw.rpartition(b"\n")[0], raw.rpartition(b"\n")[2]
    records = []
    for number, text in enumerate(whole.split(b"\n"), 1):
        try:
            records.append(json.loads(text))
        except ValueError:
            raise UserError(f"{path}: line {number} is not JSON; remove the file to begin again") from None
    if torn:
        os.truncate(path, len(raw) - len(torn))
    if not isinstance(records[0], dict):
        raise UserError(f"{path}: no journal of this project; remove the file to begin again")
    return records[0], records[1:]
