"""Resume long jobs where they stopped, only with the flags that they began with."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, Optional

from utils.common import journal
from utils.common.errors import UserError
from utils.common.journal import Record
from utils.common.output import remark
from utils.common.provenance import KEYS, check_format

OVER_AGAIN = "resume it as it began, or remove it to start over"


def changed_flags(began: Mapping[str, Any], now: Mapping[str, Any], free: Sequence[str] = ()) -> str:
    """The flags that differ from those a job began with, in words; '' if none. ``free`` and --resume do not count."""
    keys = sorted((set(began) | set(now)) - set(free) - {"resume"})
    return ", ".join(f"--{k} was {began.get(k)!r}, now {now.get(k)!r}" for k in keys if began.get(k) != now.get(k))


def begun(path: Path, header: Record, *, resume: bool, at_stake: Callable[[Iterator[Any]], str], over_again: str,
          differing: str = OVER_AGAIN, free: Sequence[str] = (),
          newer: Optional[Mapping[str, Any]] = None,
          untold: Sequence[str] = ()) -> Optional[tuple[Record, Iterator[Any]]]:
    """The header and the records of the journal to resume; None if the job begins anew.

    header: of the job as asked for now. It must equal the journal's, except for the keys in ``free``, made_by and
    format. at_stake(records): what overwriting the journal would lose, in words; '' if nothing. over_again: what the
    user can do instead of --resume. differing: what the user can do if the headers differ. newer: keys that journals of
    older versions lack, with what they mean by that. untold: keys that count as equal, with a word, where one of the
    two lacks them. Raises UserError before it overwrites an unfinished job, mixes two jobs or reads a newer format.
    """
    if not path.exists():
        return None
    records = journal.stream(path)
    began = next(records)
    check_format(path, began, header.get("format", 0))
    if not resume:
        words = at_stake(records)
        if words:
            raise UserError(f"{path}: {words}; add --resume to go on, or {over_again}")
        return None
    for key in sorted((set(began) | set(header)) - {*free, *KEYS}):
        then, now = (found.get(key, (newer or {}).get(key)) for found in (began, header))
        if key in untold and (key in began) != (key in header):
            remark(f"note: {path}: {key} not told, and taken to be equal")
        elif then != now:
            flags = isinstance(then, dict) and isinstance(now, dict) and key == "flags" and changed_flags(then, now)
            words = flags or f"began with {key} {_plainly(then)}, now {_plainly(now)}"
            same = " (another description)" if _plainly(then) == _plainly(now) else ""
            raise UserError(f"{path}: {words}{same}; {differing}")
    return began, records


def _plainly(value: Any) -> str:
    """Without the description of a network, which is long."""
    return repr({k: v for k, v in value.items() if k != "description"} if isinstance(value, dict) else value)
