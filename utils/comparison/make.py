"""Making the networks of a comparison, several at a time, and measuring them together."""

import math
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Callable, Optional

from utils.common.errors import UserError
from utils.common.workers import Workers, worker_number
from utils.comparison import results
from utils.comparison.jobs import Ended, Job, last_line, run_job
from utils.comparison.plan import Base, Task, exported, job_of, row_of
from utils.comparison.results import Row
from utils.comparison.settings import Comparison
from utils.latency import model_timing
from utils.latency.note import how_measured, plain_dict, reported_differences, threads_in
from utils.latency.own_process import OwnProcess
from utils.latency.table_files import read_note
from utils.learning import device

MEASURED = "measured.json"  # in a comparison's folder: latencies that the device itself measured


def make_networks(asked: Comparison, base: Base, folder: Path,
                  todo: Mapping[str, Task]) -> Iterator[tuple[Optional[Row], str]]:
    """Yield (row, "") or (None, the error) for every network when it is done, and print the time left."""
    if not todo:
        return
    began, done = time.monotonic(), 0
    with Workers(min(asked.jobs, len(todo))) as workers:
        for ended in workers.results(_make_network, (), [job_of(asked, base, folder, t) for t in todo.values()]):
            done += 1
            left = (time.monotonic() - began) / done * (len(todo) - done) / 60
            log = folder / "logs" / f"{ended.name}.log"
            if ended.code:
                print(f"{ended.name}: exit code {ended.code}, see {log}", flush=True)
                yield None, f"{log}: {last_line(log)}"
                continue
            row = row_of(base, folder, todo[ended.name])
            before = "" if math.isnan(row.no_fine_tune) else f" (before retraining {row.no_fine_tune:.2f}%)"
            print(f"{done}/{len(todo)}  {row.file_name}: {row.table_time * 1e3:.4f} ms predicted, test error "
                  f"{row.retrain_scratch:.2f}%{before}  {left:.0f} min left", flush=True)
            yield row, ""


def _make_network(job: Job) -> Ended:
    """Make one network in a worker. With several GPUs, each worker has its own."""
    device.take_gpu(worker_number())
    return run_job(job)


# --- measuring -------------------------------------------------------------------------------------------------

def measured(asked: Comparison, folder: Path, base: Base, rows: Mapping[str, Row],
             check: Callable[[Path], object]) -> Iterator[Row]:
    """Yield the rows with measured latencies: from the device's file if there is one, else measured here.

    check: raises UserError where a file to be measured is damaged.
    """
    files = {name: folder / exported(name) for name in rows if (folder / exported(name)).exists()}
    if (folder / MEASURED).exists():
        seconds = _measured_there(folder / MEASURED, rows, base.table_path)
    elif files:
        seconds = _measured_here(asked, folder, base, files, check)
    else:
        return
    for name, latency_s in seconds.items():
        file_bytes = files[name].stat().st_size if name in files else rows[name].file_bytes
        yield replace(rows[name], measured_time=latency_s, file_bytes=file_bytes)


def _measured_there(path: Path, rows: Mapping[str, Row], table: Path) -> dict[str, float]:
    """{name: seconds on the device}, NaN for networks not measured there, so that two machines' times never mix."""
    how, seconds = results.read_measured(path)
    reported_differences(table, read_note(table), how, f"{path}: networks measured")
    machine = ", ".join(map(str, plain_dict(how.get("device")).values()))
    missing = [name for name in rows if name not in seconds]
    words = (f"; {len(missing)} of {len(rows)} networks, {missing[0]} for one, are not in it: only predicted"
             if missing else "")
    print(f"{path}: latencies measured on {machine or 'a device that it does not name'}{words}", flush=True)
    return {name: seconds.get(name, math.nan) for name in rows}


def _measured_here(asked: Comparison, folder: Path, base: Base, files: Mapping[str, Path],
                   check: Callable[[Path], object]) -> dict[str, float]:
    """Time all exported networks in one session, in random order, so that all meet the same conditions."""
    damaged = _damaged(files, check)
    for why in damaged.values():
        print(f"not measured, only predicted: {why}. To make the file again, remove it and repeat this command with "
              "--resume", file=sys.stderr, flush=True)
    whole = {name: path for name, path in files.items() if name not in damaged}
    if not whole:
        return dict.fromkeys(files, math.nan)
    note = read_note(base.table_path)
    runner = OwnProcess(asked.num_threads or threads_in(note))
    now = how_measured(runner)
    if note.get("device", now["device"]) != now["device"]:
        print("measuring on this machine, though the table is of another. For the device's own latencies, copy "
              f"{folder}/exported there,\n"
              f"    python compute_table.py --mode=measure --model exported/*.tflite --json > {MEASURED}\n"
              f"put that file into {folder} and run this command again with --resume", file=sys.stderr, flush=True)
    probe = model_timing.table_probe(base.table_path, base.network, now)
    found = model_timing.time_together(whole, runner, model_timing.CARE, probe)
    for why in found.failed.values():
        print(f"not measured, only predicted: {why}", file=sys.stderr, flush=True)
    if found.ratio:
        print(model_timing.about_probe(found.ratio), flush=True)
    return {name: found.seconds.get(name, math.nan) for name in files}


def _damaged(files: Mapping[str, Path], check: Callable[[Path], object]) -> dict[str, str]:
    """{name: why} of the files that ``check`` refuses."""
    found = {}
    for name, path in files.items():
        try:
            check(path)
        except UserError as error:
            found[name] = str(error)
    return found
