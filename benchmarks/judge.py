"""Which cheap judge ranks networks as their error does after training from scratch?

    python benchmarks/judge.py --data_loc=DIR --base_model=BASE        # measures what is missing, then reports
    python benchmarks/judge.py --report                                # only reads the rows

The networks are those of results/judge-res-16-1.json. A row is one training of one network, or its weights taken from
the base network; the rows stand in the .jsonl file beside it, and an interrupted run goes on with the same command.
The report prints Spearman correlations of every judge with the retrained error, and draws the .png file.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable, Optional

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch

from model import surgery
from model.architectures import describe
from model.network import Network, Widths
from model.torch_net import TorchNet
from utils.common import cli, journal
from utils.common.errors import UserError, first_line
from utils.common.figure import beside_a_result
from utils.common.files import locate
from utils.common.lock import locked
from utils.common.provenance import check_format, stamp
from utils.comparison import judges
from utils.comparison.judge_plot import plot_judges
from utils.comparison.judges import RETRAINED, TARGETS, WAYS, Net, Row
from utils.latency import tables
from utils.latency.board import this_machine
from utils.latency.table_files import table_path
from utils.learning import checkpoint, data, training
from utils.learning import device as devices
from utils.learning.device import Device
from utils.learning.settings import Compute, Data, Recipe
from utils.pruning.scores import filter_norms
from utils.pruning.scratch import Lesson, taught
from utils.search.halving import RECALIBRATION

FORMAT = 1
FROM_SCRATCH = Recipe(learning_rate=0.1, momentum=0.9, weight_decay=5e-4, batch_size=128)  # as in train.py
FINE_TUNING = Recipe(learning_rate=8e-4, momentum=0.9, weight_decay=5e-4, batch_size=128)  # as in prune.py
CLOSE_BY = ("scratch_1", "scratch_3")  # ways whose training loss is tried on networks that are close to the best
FEWEST = 3  # networks of a report


@dataclass(frozen=True)
class Subjects:
    """The networks of the list."""

    network: Network
    groups: list[str]
    chosen: dict[str, list[int]]  # {name: widths of the groups}

    def widths(self, name: str) -> Widths:
        return {**self.network.full_widths, **dict(zip(self.groups, self.chosen[name]))}


def get_parser() -> argparse.ArgumentParser:
    parser = cli.new_parser(__doc__)
    parser.add_argument("--networks", default=str(ROOT / "results/judge-res-16-1.json"),
                        help="the list of networks; rows and picture stand beside it")
    parser.add_argument("--perf_table", default=str(ROOT / "perf_tables/res-16-1-avx512.pickle"), help="as in prune.py")
    parser.add_argument("--base_model", help="trained network, as in prune.py; needed to take its weights")
    parser.add_argument("--ways", nargs="+", choices=tuple(WAYS), default=list(WAYS), help="what to measure")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("--target", choices=tuple(TARGETS), default="both",
                        help="images of the retrained error")
    cli.add_data_flags(parser)
    cli.add_run_flags(parser, resume="go on after an interruption; so does the same command without it")
    parser.add_argument("--threads", type=cli.within(int, 1, 1024), help="of the process")
    parser.set_defaults(seed=100)
    return parser


def main() -> None:
    args = get_parser().parse_args()
    path = Path(args.networks)
    subjects, rows_path = read_subjects(path), path.with_suffix(".jsonl")
    rows = read_rows(rows_path, subjects)
    missing = [] if args.report else missing_of(subjects, rows, args.ways, args.seed)
    if missing:
        base_path = locate(args.base_model, "checkpoints", ".t7") if args.base_model else None
        wanted = Data(args.dataset, args.data_loc, args.workers, args.holdout_prop)
        compute = Compute(args.device, args.precision, args.threads, args.seed)
        with devices.memory_errors(), locked(rows_path):
            measure(subjects, missing, rows_path, base_path, wanted, compute)
        rows = read_rows(rows_path, subjects)
    nets = known(subjects, rows, table_path(args.perf_table), TARGETS[args.target])
    enough = f"{len(nets)} of {len(subjects.chosen)} networks have a row of every way"
    if len(nets) < FEWEST:
        words = f"{rows_path}: {enough}, and a report needs {FEWEST}; measure all --ways"
        if args.report:
            raise UserError(words)
        print(words)
        return
    print(f"{enough}\n\n{judges.table(nets)}\n\n{judges.spread(nets)}")
    print("\n".join(judges.close_calls(nets, removed, way) for way in CLOSE_BY for removed in judges.LATENCIES))
    print("\n".join(judges.glance(nets, removed) for removed in judges.LATENCIES))
    with beside_a_result(path.with_suffix(".png")):
        plot_judges(path.with_suffix(".png"), nets, f"{subjects.network.short_name}: {len(nets)} networks")


# --- files -----------------------------------------------------------------------------------------------------

def read_subjects(path: Path) -> Subjects:
    """Raises UserError where the file is no list of networks."""
    try:
        content = json.loads(path.read_text())
        found = Subjects(describe(**content["arguments"]), content["groups"], content["networks"])
        for name, values in found.chosen.items():
            if len(values) != len(found.groups) or not found.network.lives(found.widths(name)):
                raise ValueError(f"{name}: widths {values}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: expected arguments of a network, groups, and the widths of every network; found "
                        f"{type(error).__name__}, {first_line(error)}; restore it") from error
    return found


def read_rows(path: Path, subjects: Subjects) -> list[Row]:
    """The rows of networks that are in the list as they are. Raises UserError naming a line that is no row."""
    found = journal.read(path)
    if found is None:
        return []
    check_format(path, found[0], FORMAT)
    rows = []
    for number, record in enumerate(found[1], 2):
        try:
            rows.append(Row(**record))
        except (TypeError, ValueError) as error:
            raise UserError(f"{path}: line {number} is no row of this benchmark ({first_line(error)}); restore the "
                            "file") from error
    return [row for row in rows if subjects.chosen.get(row.network) == row.widths]


def missing_of(subjects: Subjects, rows: Iterable[Row], ways: Sequence[str], seed: int) -> list[tuple[str, str]]:
    """(way, network) of the seed's rows that are not there."""
    there = {(row.way, row.network) for row in rows if row.seed == seed}
    return [(way, name) for way in ways for name in subjects.chosen if (way, name) not in there]


# --- measuring -------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Bench:
    """Images, on the device, and the network whose weights are taken."""

    device: Device
    base: Optional[TorchNet]
    train: data.Images
    held_out: data.Images
    test: data.Images
    normalisation: data.Normalisation
    flip: bool

    def source(self, part: float) -> training.BatchSource:
        images = self.train if part == 1 else data.split_holdout(self.train, part)[1]
        return training.BatchSource(images.to(self.device.name), self.normalisation, self.flip,
                                    FROM_SCRATCH.batch_size)


def measure(subjects: Subjects, missing: Sequence[tuple[str, str]], path: Path, base_path: Optional[Path],
            wanted: Data, compute: Compute) -> None:
    """Append the missing rows to the file."""
    if base_path is None and any(not WAYS[way].epochs for way, _ in missing):
        raise UserError("--base_model is needed: rows with its weights are missing (or choose others by --ways)")
    content = checkpoint.load(base_path) if base_path else None
    sha256 = checkpoint.weights_sha256(content) if content else None
    if not path.exists():
        journal.begin(path, {**stamp(FORMAT), "groups": subjects.groups, "base_weights_sha256": sha256})
    began, _ = journal.read(path) or ({}, [])
    if sha256 not in (None, began.get("base_weights_sha256")):
        raise UserError(f"{path}: of another base network than {base_path}; leave --base_model out, or copy the list "
                        "of networks and begin another file with --networks")
    device, compute = devices.settled(compute)
    bench = bench_of(subjects.network, content, base_path, wanted, device)
    about = this_machine()
    processor = about.get("processor", about["machine"]) if device.name == "cpu" else torch.cuda.get_device_name()
    machine = f"{processor}, torch {torch.__version__}, {device.precision}"
    with journal.Journal(path) as log:
        for number, (way, name) in enumerate(missing, 1):
            row = row_of(bench, subjects, way, name, compute.seed, machine)
            log.append(asdict(row))
            print(f"{number} of {len(missing)}: {way}, {name}: held-out error "
                  f"{row.held_out_error_pct:.2f}%, {row.seconds:.1f} s", flush=True)


def bench_of(network: Network, content: Optional[dict[str, Any]], base_path: Optional[Path], wanted: Data,
             device: Device) -> Bench:
    base = device.place(checkpoint.build(content, base_path)) if content and base_path else None
    images = data.load_images(wanted, data.shape_for(network, "--networks"))
    train, held_out = data.split_holdout(images.train, wanted.holdout_prop)
    normalisation = checkpoint.normalisation_of(content) if content else data.measure_normalisation(train)
    return Bench(device, base, train, held_out.to(device.name), images.test.to(device.name), normalisation, images.flip)


def row_of(bench: Bench, subjects: Subjects, way: str, name: str, seed: int, machine: str) -> Row:
    began, how, widths = time.monotonic(), WAYS[way], subjects.widths(name)
    if how.epochs:
        lesson = Lesson(subjects.network, widths, FROM_SCRATCH, how.epochs)
        model, _, losses = taught(lesson, bench.source(how.part), bench.device, seed)
    else:
        model, losses = from_base(bench, widths, how.batches, seed)
    if not all(map(math.isfinite, losses)):
        raise UserError(f"{way}, {name}: the loss is no longer a number; what was measured before is kept")
    error, loss = training.judge(model, bench.held_out, bench.normalisation, bench.device)
    test = training.error_pct(model, bench.test, bench.normalisation, bench.device) if way == RETRAINED else None
    return Row(name, subjects.chosen[name], way, seed, error, loss, test, [round(x, 4) for x in losses],
               round(time.monotonic() - began, 1), machine)


def from_base(bench: Bench, widths: Widths, batches: int, seed: int) -> tuple[TorchNet, list[float]]:
    """The base network's channels of the largest norms, batch norms measured anew; and the loss of the fine-tuning."""
    assert bench.base
    keep = {group: surgery.best_channels(filter_norms(bench.base, group), width)
            for group, width in widths.items() if width < bench.base.widths[group]}
    model, source = bench.device.place(surgery.slice_channels(bench.base, keep)), bench.source(1)
    training.recalibrate(model, source.batches(0, RECALIBRATION, seed, 0), bench.device)
    if not batches:
        return model, []
    return model, [training.fit(model, training.sgd(model, FINE_TUNING), source.batches(0, batches, seed, 1),
                                bench.device)]


# --- what is known ---------------------------------------------------------------------------------------------

def known(subjects: Subjects, rows: Sequence[Row], table: Path, target: Callable[[Row], float]) -> list[Net]:
    """The networks that have a row of every way."""
    network, priced = subjects.network, tables.read_table(table, subjects.network)
    full_s, nets = tables.latency_s(network, network.full_widths, priced), []
    for name in subjects.chosen:
        own = sorted((row for row in rows if row.network == name), key=lambda row: row.seed, reverse=True)
        if {row.way for row in own} == set(WAYS):
            widths = subjects.widths(name)
            latency_s = tables.latency_s(network, widths, priced)
            nets.append(Net(1 - latency_s / full_s, network.parameter_count(widths), network.multiply_adds(widths),
                            latency_s, {row.way: row for row in own},
                            [target(row) for row in own if row.way == RETRAINED]))
    return nets


if __name__ == "__main__":
    cli.run(main)
