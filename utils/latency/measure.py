"""Measure a latency table into a journal, so that a resumed measurement keeps everything measured before.

The journal is NAME.journal: a header, then a line per visit and per probe with the seconds of every run.

    ["No_Stride_3", 16, 128, [4.1e-05, ...]]       an entry: key, cin, cout, seconds of each run
    ["network", 4, 0, [...]]                       a whole network that the sums are fitted to (correction.py), copy 0
    {"probe": [...], "temperature_c": 48.3, ...}   the probe, see timing.py
    {"delegate": "none", "of": ["FC", 3, 10]}      other kernels ran this entry than the header says
    {"round": 2, "entries": {"FC": [[3, 10], ...]}}  entries that few.py chose to measure next; what it knows besides
    {"finished": "2026-..."}                       the table was written
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Callable

import numpy as np

from model.network import Network, Widths
from model.timed import Table
from utils.common import journal
from utils.common import resume as resuming
from utils.common.errors import UserError
from utils.latency.entries import Entries, probe_entry
from utils.latency.note import time_of_day
from utils.latency.runners import Model, Opened, Runner, Timer, patiently
from utils.latency.timing import Care, Session, Visits, low

FORMAT = 1  # of the journal
NEWER = {"visit_statistic": "median"}  # keys that older journals lack, with what they mean by that
COPIES = 3  # items per whole network: it is visited this many times as often as an entry
FREE = ("began", "conditions")  # of a header: they may differ between a session and its resumption
UNTOLD = ("delegate",)  # of a header: older versions did not record it
ADVICE = (". What was measured is kept: correct the cause (for a broken file, --mode=save again), then run the same "
          "command with --resume")


@dataclass(frozen=True)
class Work:
    """The items of a session: ``copies`` of every whole network, then the entries ``wanted`` (their numbers)."""

    entries: Entries
    wanted: np.ndarray
    networks: Sequence[Widths]  # widths of those to fit the correction on
    copies: int = COPIES

    def __len__(self) -> int:
        return self.first_entry + len(self.wanted)

    @property
    def first_entry(self) -> int:
        """The item number of the first entry."""
        return self.copies * len(self.networks)

    def with_more(self, numbers: np.ndarray) -> "Work":
        """The same and, behind it, entries of these numbers."""
        return replace(self, wanted=np.concatenate([self.wanted, numbers]))

    def split(self, by_item: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What there is by item, as [networks, copies] and [entries]."""
        return by_item[:self.first_entry].reshape(-1, self.copies), by_item[self.first_entry:]

    def label(self, item: int) -> list[Any]:
        """The item's name in the journal: the line without the runs."""
        if item < self.first_entry:
            return ["network", *divmod(item, self.copies)]
        table, cin, cout = self.entries[int(self.wanted[item - self.first_entry])]
        return [table.key, cin, cout]

    def item(self, label: Sequence[Any]) -> int:
        """The item with this label. Raises KeyError, TypeError or ValueError where there is none."""
        key, cin, cout = label
        if type(cin) is not int or type(cout) is not int:
            raise TypeError(key)
        if key == "network":
            if not (0 <= cin < len(self.networks) and 0 <= cout < self.copies):
                raise KeyError(key)
            return cin * self.copies + cout
        number = self.entries.number(key, cin, cout)
        place = int(np.searchsorted(self._in_order[0], number))
        if place == len(self.wanted) or self._in_order[0][place] != number:
            raise KeyError(key)
        return self.first_entry + int(self._in_order[1][place])

    @cached_property
    def _in_order(self) -> tuple[np.ndarray, np.ndarray]:
        """The entries' numbers, ascending, and where each stands in ``wanted``."""
        order = np.argsort(self.wanted, kind="stable")
        return self.wanted[order], order


@dataclass
class Begun:
    """A measurement that was begun, or is resumed; it goes on here."""

    header: journal.Record
    work: Work
    visits: Visits
    delegates: dict[int, str] = field(default_factory=dict)  # by item: its kernels, where others than the header's
    notes: list[journal.Record] = field(default_factory=list)  # lines of few.py, in order

    @property
    def measured(self) -> int:
        """How many entries were visited."""
        return int((self.work.split(self.visits.count)[1] > 0).sum())

    def grow(self, work: Work) -> None:
        """Go on with this work, which has further items behind those that there are."""
        self.visits.grow(len(work) - len(self.work))
        self.work = work


Noted = Callable[[Begun, journal.Record], bool]


@dataclass(frozen=True)
class Source:
    """Where the models come from."""

    entry: Callable[[Table, int, int], Model]  # of a table, cin and cout
    network: Callable[[Network, Widths], Model]


def open_journal(path: Path, header: journal.Record, work: Work, care: Care, *, resume: bool,
                 noted: Noted = lambda begun, record: False) -> Begun:
    """Begin or resume the journal, with what it holds.

    noted(begun, record): adds a line of few.py to what was begun; False if it is not valid. Raises UserError rather
    than mix two measurements or lose an unfinished one.
    """
    header, visits = dict(header, began=time_of_day()), Visits(len(work), care.max_visits)
    found = resuming.begun(path, header, resume=resume, at_stake=_unfinished, over_again="remove it to start over",
                           free=FREE, newer=NEWER, untold=UNTOLD)
    if found is None:
        journal.begin(path, header)
        return Begun(header, work, visits)
    began, records = found
    begun = Begun(began, work, visits)
    for number, record in enumerate(records, 2):
        if not _replay(record, begun, noted):
            raise UserError(f"{path}: line {number} is no measurement of this network; remove the file to begin again")
    return begun


def _unfinished(records: Iterator[Any]) -> str:
    """What a journal holds, in words; '' if its table was written or nothing was measured yet."""
    visits, last = 0, None
    for last in records:
        visits += isinstance(last, list)
    finished = isinstance(last, dict) and "finished" in last
    return f"an unfinished measurement, {visits:,} visits" if visits and not finished else ""


def _replay(record: Any, begun: Begun, noted: Noted) -> bool:
    """Add a line of the journal to what was begun; False if the line is not valid."""
    work = begun.work
    if isinstance(record, dict):
        if "finished" in record:
            return True
        if "delegate" in record:
            return _replay_delegate(record, begun)
        if "probe" not in record:
            return noted(begun, record)
        others = [record.get(key, 0.0) for key in ("temperature_c", "paused_s", "at_s")]
        sound = _all_seconds(record.get("probe")) and all(
            type(v) in (int, float) and abs(v) < 1e9 for v in others)
        if sound:
            begun.visits.add_probe(record)
        return sound
    try:
        *label, runs = record
        item = work.item(label)
    except (TypeError, ValueError, KeyError):
        return False
    if not _all_seconds(runs) or work.label(item) != label:
        return False
    begun.visits.add_visit(item, low(runs))
    return True


def _replay_delegate(record: journal.Record, begun: Begun) -> bool:
    try:
        begun.delegates[begun.work.item(record["of"])] = str(record["delegate"])
    except (TypeError, ValueError, KeyError):
        return False
    return True


def _all_seconds(runs: Any) -> bool:
    return isinstance(runs, list) and bool(runs) and all(isinstance(s, float) and 0 < s < 1e6 for s in runs)


def session(source: Source, runner: Runner, care: Care, begun: Begun, log: journal.Journal,
            enough: Callable[[], bool] = lambda: False) -> Session:
    """A session that measures what was begun, and adds every visit and probe to it and to the journal."""
    network, usual = begun.work.entries.network, begun.header.get("delegate")

    def note_delegate(item: int, opened: Opened) -> None:
        if usual and opened.delegate not in (None, begun.delegates.get(item, usual)):
            begun.delegates[item] = opened.delegate
            log.append({"delegate": opened.delegate, "of": begun.work.label(item)})

    def open_item(item: int) -> Timer:
        work = begun.work
        name = " ".join(map(str, work.label(item)))
        if item >= work.first_entry:
            entry = work.entries[int(work.wanted[item - work.first_entry])]
            return patiently(lambda: source.entry(*entry), runner, name, ADVICE, partial(note_delegate, item))
        widths = work.networks[item // work.copies]
        return patiently(lambda: source.network(network, widths), runner, name, ADVICE)

    probe = patiently(lambda: source.entry(*probe_entry(network)), runner, "probe", ADVICE)
    return Session(care, begun.visits, open_item, probe,
                   record_visit=lambda item, runs: log.append([*begun.work.label(item), runs]),
                   record_probe=log.append, enough=enough)
