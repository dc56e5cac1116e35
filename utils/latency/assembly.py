"""Build a latency table: choose what to measure, begin or resume the journal, write the table and its note."""

import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Optional, Union

import numpy as np

from model.network import Network
from utils.common import journal
from utils.common.errors import UserError
from utils.common.files import writable_folder
from utils.common.journal import Record
from utils.common.lock import locked
from utils.common.provenance import stamp
from utils.latency import (
    board,
    check,
    correction,
    few,
    large,
    measure,
    note,
    report,
    reuse,
    rounds,
    sampling,
    tables,
    told,
    variants,
    writing,
)
from utils.latency.benchmark_tool import BinaryRunner
from utils.latency.entries import Entries, probe_entry
from utils.latency.known import Planes
from utils.latency.measure import ADVICE, Source, Work
from utils.latency.rounds import Goal
from utils.latency.runners import Runner
from utils.latency.settings import Pace, Tool
from utils.latency.table_files import FOLDER, write_large, write_pair
from utils.latency.timing import Care


@dataclass(frozen=True)
class Measuring:
    """What to measure, and how."""

    network: Network
    num_images: int  # per inference
    sample: Union[float, Goal, None]  # part of the entries to measure, or how good the table has to be; None: all
    calibrate: int  # whole networks that the sums are fitted to
    pace: Pace
    reuse: tuple[Path, ...] = ()  # tables whose entries are taken
    multiple_of: int = 1  # of the widths that networks get, beside the full ones

    def networks(self) -> list[dict[str, int]]:
        """Widths of those that the sums can be fitted to."""
        return correction.fitting_networks(self.network, self.calibrate, self.pace.seed, self.multiple_of)


def check_board(asked: Measuring, tool: Tool) -> check.Check:
    """Look at this machine, on which the table is to be built. Raises UserError if the binary asked for is missing."""
    source = Source(partial(writing.variant, asked.num_images), partial(writing.whole_network, asked.num_images))
    work = (rounds.work_ahead(Planes(asked.network, asked.multiple_of), asked.networks())
            if isinstance(asked.sample, Goal) else
            Work(Entries(asked.network), wanted_entries(asked)[0], asked.networks()))
    return check.look(work, source, tool.runner(), _care(asked))


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
    """The numbers of the entries to measure, and the sample that they are, if they are one. Raises UserError, also
    where only the device can tell which they are."""
    if isinstance(asked.sample, Goal):
        raise UserError("--sample without a value chooses its entries while it measures, which only --mode=build can; "
                        "expected a part of the entries, such as --sample=0.05")
    sample = sampling.choose(asked.network, asked.sample, asked.pace.seed) if asked.sample else None
    return (sample.numbers if sample else np.arange(len(Entries(asked.network)))), sample


def _care(asked: Measuring) -> Care:
    """How carefully the entries are measured."""
    care = asked.pace.of_table(few=isinstance(asked.sample, float))
    if isinstance(asked.sample, Goal):
        return few.roomy(replace(care, runs=-(-care.runs * 2 // 3),  # each entry is one of many that a fit rests on
                                 patience_s=min(care.patience_s, few.PATIENCE * 60 * asked.sample.minutes)))
    return care


def _measure(asked: Measuring, source: Source, runner: Runner, name: str, about: Record, mode: str, *,
             going_on: bool) -> None:
    """Measure, resumably, and write perf_tables/NAME.pickle with its note."""
    network, care = asked.network, _care(asked)
    about_tool = note.about_tool(runner)
    header = _header(asked, care, about, about_tool)
    folder = writable_folder(FOLDER)
    log, path = folder / f"{name}.journal", folder / f"{name}.pickle"
    if path.is_dir():
        raise UserError(f"{path}: a folder, expected the place for a table; choose another --save_file")
    reused = reuse.entries(network, asked.reuse, {**about_tool, "num_images": asked.num_images,
                                                  "device": header["device"]})
    with locked(log):
        work, sample = _work(asked)
        begun = measure.open_journal(log, header, work, care, resume=going_on,
                                     noted=few.noted(asked.networks()))
        before = int(begun.visits.count.sum())
        with journal.Journal(log) as lines:
            operators: Optional[large.Operators] = None
            if isinstance(asked.sample, Goal):
                operators, fill = _in_rounds(asked, asked.sample, source, runner, care, begun, lines, reused)
            else:
                measure.session(source, runner, care, begun, lines).run()
                fill = partial(_filled, work.entries, sample)
            table, more = report.finish(care, begun, fill, about_tool.get("visit_statistic"))
            kept = note.stamped({**begun.header, **about_tool, "operators": tables.operators(network),
                                 "how": f"compute_table.py --mode={mode}", "entries": begun.measured,
                                 "visits_from_before_a_resume": before, "ended": note.time_of_day(), **more})
            if operators and not network.names_tables:
                write_large(path, operators, kept)
            else:
                write_pair(path, table, kept)
            lines.append({"finished": note.time_of_day()})
    unpruned_s = tables.latency_s(network, network.full_widths, tables.read_table(path, network))
    print(f"{path}: {begun.measured:,} entries measured in {begun.visits.elapsed_s:.0f} s"
          f"{' of all sessions' if before else ''}; the unpruned network takes {unpruned_s * 1e3:.3f} ms")
    for line in report.lines(more):
        print(line, file=sys.stderr)


def _header(asked: Measuring, care: Care, about: Record, about_tool: Record) -> Record:
    """The header of the journal, which tells one measurement from another."""
    conditions, pace = board.conditions(), asked.pace
    for line in board.governor_advice(conditions):
        print(f"note: {line}", file=sys.stderr)
    chosen = isinstance(asked.sample, Goal)
    return {**stamp(measure.FORMAT), "network": asked.network.arguments, "num_images": asked.num_images, **about,
            "sample": few.NAME if chosen else asked.sample, "calibrate": asked.calibrate,
            "num_measures": pace.num_measures, "num_passes": care.passes, "spread": pace.spread, "drift": pace.drift,
            "seed": pace.seed, "device": board.this_machine(), "conditions": conditions.as_json(), **about_tool,
            **correction.limits(asked.network), **({"reuse": [str(p) for p in asked.reuse]} if asked.reuse else {}),
            **({"multiple_of": asked.multiple_of} if asked.multiple_of > 1 else {})}


def _work(asked: Measuring) -> tuple[Work, Optional[sampling.Sample]]:
    """What to measure, as far as it is known, and the sample that it is, if it is one."""
    if isinstance(asked.sample, Goal):  # the rounds choose
        return Work(Entries(asked.network), np.zeros(0, np.int64), (), copies=1), None
    wanted, sample = wanted_entries(asked)
    return Work(Entries(asked.network), wanted, asked.networks()), sample


def _filled(entries: Entries, sample: Optional[sampling.Sample],
            seconds: np.ndarray) -> tuple[tables.LatencyTable, Record]:
    """The table from the seconds of what was measured, [entries], and what its note says of that."""
    if sample is None:
        return entries.arrays(seconds), {}
    table, about = sampling.fill(entries.network, sample, seconds)
    return table, {"sampling": {**about, **told.sampled(entries, sample.numbers)}}


def _in_rounds(asked: Measuring, goal: Goal, source: Source, runner: Runner, care: Care, begun: measure.Begun,
               lines: journal.Journal, reused: few.Reused) -> tuple[large.Operators, report.Fill]:
    """Measure few entries in rounds: what is known then, and how a table comes from it."""
    measurement = few.Measurement(begun, care, goal, asked.networks(), source, runner, lines, asked.multiple_of)
    known, reason = measurement.run(reused)
    measured = measurement.planes.all({key: one.numbers for key, one in known.operators.items()})
    about = {**known.about(), **measurement.about(), "stopped_by": reason, "max_error": goal.max_error,
             "minutes": goal.minutes}
    if asked.network.names_tables:  # whose table is of arrays
        about.update(told.sampled(begun.work.entries, measured))
    return known.operators, lambda _: (known.table, {"sampling": about})
