"""Measure a latency table with care, into a journal, so that nothing measured is ever measured again.

The journal is NAME.journal: a header, then a line per visit and per probe, every run of it.

    ["No_Stride_3", 16, 128, [4.1e-05, ...]]       an entry: key, cin, cout, seconds of each run
    ["network", 4, 0, [...]]                       a whole network that the sums are fitted to (calibration.py), copy 0
    {"probe": [...], "temperature_c": 48.3, ...}   the probe, see session.py
    {"finished": "2026-..."}                       the table was written
"""

import datetime
import platform
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence, Tuple

import numpy as np

from model.network import Network, Table, Widths
from utils import journal
from utils.benchmark import BenchmarkError
from utils.errors import UserError
from utils.session import Care, Session, State, Timer, low

PROBE_WIDTH = 128  # channels of the probe, at most
ATTEMPTS = 3  # per visit, before the user is told
# visits after the passes, of an entry that is not settled: of a whole table, or where there are few things to time
FURTHER_VISITS, FURTHER_VISITS_OF_FEW = 2, 6
COPIES = 3  # items that each whole network is: it is visited so many times as often as an entry
ADVICE = (". What was measured is kept: put it right (a broken file: --mode=save again), then the same command with "
          "--resume")


@dataclass(frozen=True)
class Grid:
    """All entries of a network's tables, numbered from 0."""

    network: Network

    @cached_property
    def tables(self) -> Tuple[Table, ...]:
        return tuple(self.network.tables.values())

    @cached_property
    def starts(self) -> np.ndarray:
        """By table, the number of its first entry; last, how many entries there are."""
        return np.cumsum([0] + [t.rows * t.columns for t in self.tables])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def entry(self, number: int) -> Tuple[Table, int, int]:
        which = int(np.searchsorted(self.starts, number, side="right")) - 1
        return (self.tables[which], *self.tables[which].entry(number - int(self.starts[which])))

    def number(self, key: str, cin: int, cout: int) -> int:
        """The number of an entry. Raises KeyError where there is none."""
        for table, start in zip(self.tables, self.starts):
            if table.key == key and 1 <= cin <= table.rows:
                number = int(start) + (cin - 1) * table.columns + (cout - 1 if table.columns > 1 else 0)
                if 1 <= cout and number < len(self) and self.entry(number) == (table, cin, cout):
                    return number
        raise KeyError(key)

    def arrays(self, seconds: np.ndarray) -> Dict[str, np.ndarray]:
        """Seconds by number as a table: {key: [cin - 1, cout - 1]}."""
        return {t.key: seconds[a:b].reshape(t.shape).copy()
                for t, a, b in zip(self.tables, self.starts[:-1], self.starts[1:])}


@dataclass(frozen=True)
class Work:
    """What is measured, the items of a session: the entries ``wanted`` (numbers, rising), then whole networks."""

    grid: Grid
    wanted: np.ndarray
    networks: Sequence[Widths]  # to calibrate on, each of them COPIES times

    def __len__(self) -> int:
        return len(self.wanted) + COPIES * len(self.networks)

    def label(self, item: int) -> List[Any]:
        """How the journal calls an item."""
        if item >= len(self.wanted):
            return ["network", *divmod(item - len(self.wanted), COPIES)]
        table, cin, cout = self.grid.entry(int(self.wanted[item]))
        return [table.key, cin, cout]

    def item(self, label: Sequence[Any]) -> int:
        """The item with this label. Raises KeyError, TypeError or ValueError where there is none."""
        key, cin, cout = label
        if type(cin) is not int or type(cout) is not int:
            raise TypeError(key)
        if key == "network":
            if not (0 <= cin < len(self.networks) and 0 <= cout < COPIES):
                raise KeyError(key)
            return len(self.wanted) + cin * COPIES + cout
        number = self.grid.number(key, cin, cout)
        item = int(np.searchsorted(self.wanted, number))
        if item == len(self.wanted) or self.wanted[item] != number:
            raise KeyError(key)
        return item


@dataclass(frozen=True)
class Source:
    """Where the models come from: ``entry(table, cin, cout)`` and ``network(network, widths)`` give a path or bytes."""

    entry: Callable[[Table, int, int], Any]
    network: Callable[[Network, Widths], Any]


def open_journal(path: Path, header: Dict[str, Any], work: Work, care: Care, *, resume: bool):
    """Begin the journal or go on with it; returns its header and the state of what it holds.

    Raises UserError rather than mix two measurements or lose an unfinished one.
    """
    header, state = dict(header, began=now()), State(len(work), care.max_visits)
    if not path.exists() or not resume:
        visits, finished = _progress_of(path)
        if visits and not finished:
            raise UserError(f"{path}: an unfinished measurement, {visits:,} visits; add --resume to go on, "
                            "or remove it to start over")
        journal.begin(path, header)
        return header, state
    records = journal.stream(path)
    before = next(records)
    for key in sorted((set(before) | set(header)) - {"began"}):
        if before.get(key) != header.get(key):
            raise UserError(f"{path}: measured with {key} {before.get(key)}, now {header.get(key)}; resume it as it "
                            "began, or remove it to start over")
    for number, record in enumerate(records, 2):
        if not _replay(record, work, state):
            raise UserError(f"{path}: line {number} is no measurement of this network; remove the file to begin again")
    return before, state


def _progress_of(path: Path) -> Tuple[int, bool]:
    """How many visits a journal holds, and whether its table was written."""
    visits, last = 0, None
    for last in journal.stream(path) if path.exists() else ():
        visits += isinstance(last, list)
    return visits, isinstance(last, dict) and "finished" in last


def _replay(record: Any, work: Work, state: State) -> bool:
    """Put a line of the journal into the state; False where it makes no sense."""
    if isinstance(record, dict):
        if "finished" in record:
            return True
        others = [record.get(key, 0.0) for key in ("temperature_c", "paused_s")]
        sound = _all_seconds(record.get("probe")) and all(
            type(v) in (int, float) and abs(v) < 1e9 for v in others)
        if sound:
            state.add_probe(record)
        return sound
    try:
        *label, runs = record
        item = work.item(label)
    except (TypeError, ValueError, KeyError):
        return False
    if not _all_seconds(runs) or work.label(item) != label:
        return False
    state.add_visit(item, low(runs))
    return True


def _all_seconds(runs: Any) -> bool:
    return isinstance(runs, list) and bool(runs) and all(isinstance(s, float) and 0 < s < 1e6 for s in runs)


def session(work: Work, source: Source, runner, care: Care, state: State, log: journal.Journal) -> Session:
    """The measurement of this work: what it measures goes into the state and the journal."""
    network = work.grid.network

    def open_item(item: int) -> Timer:
        name = " ".join(map(str, work.label(item)))
        if item < len(work.wanted):
            entry = work.grid.entry(int(work.wanted[item]))
            return patiently(lambda: source.entry(*entry), runner, name)
        return patiently(lambda: source.network(network, work.networks[(item - len(work.wanted)) // COPIES]), runner, name)

    probe = patiently(lambda: source.entry(*probe_entry(network)), runner, "probe")
    return Session(care, state, open_item, probe,
                   record_visit=lambda item, runs: log.append([*work.label(item), runs]), record_probe=log.append)


def probe_entry(network: Network) -> Tuple[Table, int, int]:
    """What shows whether the machine is as fast as usual: the network's most varied operator, as wide as may be timed
    often. Wide, because whole networks use the caches that neighbours on the machine take away."""
    table = max(network.tables.values(), key=lambda t: t.rows * t.columns)
    row, column = min(table.rows, PROBE_WIDTH) - 1, min(table.columns, PROBE_WIDTH) - 1
    return (table, *table.entry(row * table.columns + column))


def patiently(make: Callable[[], Any], runner, name: str, advice: str = ADVICE) -> Timer:
    """The timer of a model, opened when it is first used and kept.

    It raises UserError, ending in ``advice``, when the model fails ATTEMPTS times.
    """
    timers: List[Timer] = []

    def timer(runs: int) -> List[float]:
        failure, model = None, None
        for _ in range(ATTEMPTS):
            try:
                if not timers:
                    model = make()
                    timers.append(runner.open(model))
                return timers[0](runs)
            except BenchmarkError as error:
                failure = error
                timers.clear()
        where = f"{model}" if isinstance(model, Path) else name
        raise UserError(f"{where}: could not be timed in {ATTEMPTS} attempts: {failure}{advice}")
    return timer


def device() -> Dict[str, str]:
    """What the sidecar says of the machine: a board's model where the kernel knows it, and the processor."""
    about = {"machine": platform.machine()}
    try:
        about["model"] = Path("/proc/device-tree/model").read_text().strip("\0\n ")
    except OSError:
        pass
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for field in ("model name", "Model"):
        about.update({"processor": line.split(":", 1)[1].strip() for line in lines if line.startswith(field)})
    return about


def now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
