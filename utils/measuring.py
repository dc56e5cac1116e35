"""Measure a latency table entry by entry into a journal, so that nothing measured is ever measured again."""

import datetime
import platform
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np

from model.network import Network
from utils import journal, latency_table
from utils.benchmark import BenchmarkError
from utils.errors import UserError
from utils.progress import progress
from utils.tflite_files import file_path

ATTEMPTS = 3  # per file, before the user is told

Entry = Tuple[str, int, int]  # key, cin, cout


def open_journal(path: Path, table: Path, header: Dict[str, Any], network: Network, *, resume: bool):
    """Begin the journal or go on with it; returns its header and what it holds, the seconds of every run by entry.

    table: the file that the measurement ends in. Raises UserError rather than mix two measurements or lose an
    unfinished one.
    """
    found = journal.read(path)
    header = dict(header, began=now())
    if found is None or not resume:
        written = table.exists() and path.exists() and table.stat().st_mtime >= path.stat().st_mtime
        if found is not None and not written:
            raise UserError(f"{path}: an unfinished measurement of {len(found[1]):,} entries; add --resume to go on, "
                            "or remove it to start over")
        journal.begin(path, header)
        return header, {}
    before, records = found
    for key in sorted((set(before) | set(header)) - {"began"}):
        if before.get(key) != header.get(key):
            raise UserError(f"{path}: measured with {key} {before.get(key)}, now {header.get(key)}; resume it as it "
                            "began, or remove it to start over")
    known = {str([table.key, cin, cout]) for table, cin, cout in latency_table.entries(network)}
    measured = {}
    for number, record in enumerate(records, 2):
        sound = isinstance(record, list) and len(record) == 4 and str(record[:3]) in known and _all_seconds(record[3])
        if not sound:
            raise UserError(f"{path}: line {number} is no measurement of this network; remove the file to begin again")
        measured[tuple(record[:3])] = record[3]
    return before, measured


def _all_seconds(runs: Any) -> bool:
    return isinstance(runs, list) and bool(runs) and all(isinstance(s, float) and s > 0 for s in runs)


def measure(network: Network, folder: Path, runner, path: Path, measured: Dict[Entry, List[float]]):
    """Time every file that is not in ``measured`` yet; returns the finished table, the median of each entry's runs.

    Raises UserError, naming the file, when one fails ATTEMPTS times; what was measured before stays in the journal.
    """
    left = [e for e in latency_table.entries(network) if (e[0].key, e[1], e[2]) not in measured]
    with journal.Journal(path) as log:
        for table, cin, cout in progress(left, "measuring", len(left) + len(measured), len(measured)):
            runs = [round(s, 9) for s in _time_patiently(runner, file_path(folder, table, cin, cout))]
            measured[table.key, cin, cout] = runs
            log.append([table.key, cin, cout, runs])
    arrays = latency_table.empty(network)
    for (key, cin, cout), runs in measured.items():
        arrays[key][network.tables[key].index(cin, cout)] = np.median(runs)
    return arrays


def _time_patiently(runner, path: Path) -> List[float]:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return runner.time_file(path)
        except BenchmarkError as error:
            failure = error
    raise UserError(f"{path}: could not be timed in {ATTEMPTS} attempts: {failure}. Make it again with --mode=save, "
                    "then --mode=load --resume; what was measured is kept")


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
