"""Build a latency table: choose what to measure, begin or resume the journal, write the table and its note."""

import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Optional

import numpy as np

from model.network import Network
from utils.common import journal
from utils.common.errors import UserError
from utils.common.files import writable_folder
from utils.common.journal import Record
from utils.common.lock import locked
from utils.common.provenance import stamp
from utils.latency import board, check, correction, measure, note, report, sampling, tables, variants, writing
from utils.latency.benchmark_tool import BinaryRunner
from utils.latency.entries import Entries, probe_entry
from utils.latency.measure import ADVICE, Source, Work
from utils.latency.runners import Runner
from utils.latency.settings import Pace, Tool
from utils.latency.table_files import FOLDER, write_pair


@dataclass(frozen=True)
class Measuring:
    """What to measure, and how."""

    network: Network
    num_images: int  # per inference
    sample: Optional[float]  # part of the entries to measure; None: all
    calibrate: int  # whole networks that the sums are fitted to
    pace: Pace


def check_board(asked: Measuring, tool: Tool) -> check.Check:
    """Look at this machine, on which the table is to be built. Raises UserError if the binary asked for is missing."""
    source = Source(partial(writing.variant, asked.num_images), partial(writing.whole_network, asked.num_images))
    care, (wanted, _) = asked.pace.of_table(few=bool(asked.sample)), wanted_entries(asked)
    networks = correction.fitting_networks(asked.network, asked.calibrate, asked.pace.seed)
    return check.look(Work(Entries(asked.network), wanted, networks), source, tool.runner(), care)


def build_table(asked: Measuring, tool: Tool, name: str, *, going_on: bool) -> None:
    """Measure models that are made in memory, and write perf_tables/NAME.pickle. Raises UserError."""
    runner = tool.runner()
    runner.describe()  # fails at once without a runtime
    writing.needed_writer()
    source = Source(partial(writing.variant, asked.num_images), partial(writing.whole_network, asked.num_images))
    _measure(asked, source, runner, name, {"converter": "direct"}, "build", going_on=going_on)


def load_table(asked: Measuring, tool: Tool, name: str, folder: Path, *, going_on: bool) -> None:
    """Measure the files that --mode=save wrote, and write perf_tables/NAME.pickle. Raises UserError."""
    manifest = variants.check_manifest(folder, asked.network, asked.num_images)
    missing = variants.missing_files(folder, Entries(asked.network), wanted_entries(asked)[0])
    if missing:
        raise UserError(f"{missing[0]}: missing, as are {len(missing) - 1:,} others; make them with --mode=save "
                        "(every --offset_process, the same --sample and --seed)")
    if asked.calibrate and not writing.tflite_writer():
        print("the sums are not fitted to whole networks: writing those needs flatbuffers and LiteRT's schema "
              "(pip install -r requirements-pi.txt, or requirements-pi32.txt with 32-bit Python)", file=sys.stderr)
        asked = replace(asked, calibrate=0)
    entry = partial(variants.whole_file, folder, variants.read_checksums(folder))
    source = Source(entry, partial(writing.whole_network, asked.num_images))
    runner = tool.runner()
    if isinstance(runner, BinaryRunner):
        runner = runner.held(lambda: entry(*probe_entry(asked.network)), ADVICE)
    _measure(asked, source, runner, name, {"converter": manifest.get("converter")}, "load", going_on=going_on)


def wanted_entries(asked: Measuring) -> tuple[np.ndarray, Optional[sampling.Sample]]:
    """The numbers of the entries to measure, and the sample that they are, if they are one. Raises UserError."""
    sample = sampling.choose(asked.network, asked.sample, asked.pace.seed) if asked.sample else None
    return (sample.numbers if sample else np.arange(len(Entries(asked.network)))), sample


def _measure(asked: Measuring, source: Source, runner: Runner, name: str, about: Record, mode: str, *,
             going_on: bool) -> None:
    """Measure, resumably, and write perf_tables/NAME.pickle with its note."""
    network, pace = asked.network, asked.pace
    care, (wanted, sample) = pace.of_table(few=bool(asked.sample)), wanted_entries(asked)
    work = Work(Entries(network), wanted, correction.fitting_networks(network, asked.calibrate, pace.seed))
    about_tool, conditions = note.about_tool(runner), board.conditions()
    for line in board.governor_advice(conditions):
        print(f"note: {line}", file=sys.stderr)
    header: Record = {**stamp(measure.FORMAT), "network": network.arguments, "num_images": asked.num_images, **about,
                      "sample": asked.sample, "calibrate": asked.calibrate, "num_measures": pace.num_measures,
                      "num_passes": care.passes, "spread": pace.spread, "drift": pace.drift, "seed": pace.seed,
                      "device": board.this_machine(), "conditions": conditions.as_json(),
                      **about_tool, **correction.limits(network)}
    folder = writable_folder(FOLDER)
    log, path = folder / f"{name}.journal", folder / f"{name}.pickle"
    if path.is_dir():
        raise UserError(f"{path}: a folder, expected the place for a table; choose another --save_file")
    with locked(log):
        begun = measure.open_journal(log, header, work, care, resume=going_on)
        before = int(begun.visits.count.sum())
        with journal.Journal(log) as lines:
            measure.session(work, source, runner, care, begun, lines).run()
            table, more = report.finish(work, care, begun, sample, about_tool.get("visit_statistic"))
            write_pair(path, table, {
                **begun.header, **about_tool, **stamp(note.FORMAT), "operators": tables.operators(network),
                "how": f"compute_table.py --mode={mode}", "entries": len(wanted),
                "visits_from_before_a_resume": before, "ended": note.time_of_day(), **more})
            lines.append({"finished": note.time_of_day()})
    unpruned_s = tables.latency_s(network, network.full_widths, tables.read_table(path, network))
    print(f"{path}: {len(wanted):,} entries measured in {begun.visits.elapsed_s:.0f} s"
          f"{' of all sessions' if before else ''}; the unpruned network takes {unpruned_s * 1e3:.3f} ms")
    for line in report.lines(more):
        print(line, file=sys.stderr)
