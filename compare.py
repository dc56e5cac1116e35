"""Prune by several methods, retrain from scratch, export, measure: error against latency, of all of them in one picture.

    python compare.py --save_file=res-16-1 --base_model=res-16-1 --perf_table=res-16-1 --pruning_facts 0.3 0.5 \\
        --methods netadapt uniform random knapsack grid --seeds 0 1 2 --train_flags='--epochs=20 --lr_type=cosine' --jobs=2
    python compare.py --plot-only results.csv                      # the picture of a CSV file, of any origin

A method may have flags of prune.py of its own: --methods netadapt 'netadapt --pruning_method=fisher'. ``grid`` is smaller
networks of the same architecture, ``unpruned`` the network as it is; both are only trained. Everything happens in
comparisons/SAVE_FILE/, by the commands that comparisons/SAVE_FILE/logs/ shows; SAVE_FILE.csv and SAVE_FILE.png there have
a line and a dot for every network that is finished. After an interruption --resume goes on.
"""

import argparse
import hashlib
import math
import shlex
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

from model.network import Network, Widths
from utils import baselines, cli, comparison, errands, journal, latency_table, netadapt
from utils.comparison import Row
from utils.errands import Command, Errand
from utils.errors import UserError
from utils.files import locate, save_name, writable_folder, write_whole

HERE = Path(__file__).resolve().parent
TRAINED_ONLY = ("grid", "unpruned")


def get_parser() -> argparse.ArgumentParser:
    parser = cli.new_parser(__doc__.splitlines()[0])
    parser.add_argument("--plot_only", "--plot-only", metavar="CSV",
                        help="draw the picture of this CSV file beside it, and do nothing else")
    parser.add_argument("--save_file", help="name of the comparison, comparisons/SAVE_FILE/")
    parser.add_argument("--base_model", help="trained network, checkpoints/BASE_MODEL.t7 or a path")
    parser.add_argument("--perf_table", help="its latency table, perf_tables/PERF_TABLE.pickle or a path")
    parser.add_argument("--pruning_facts", type=cli.fraction, nargs="+", default=[0.4],
                        help="parts of the latency to remove")
    parser.add_argument("--methods", type=shlex.split, nargs="+",
                        default=[[m] for m in ("netadapt", "uniform", "random", "knapsack", "grid", "unpruned")],
                        help="what to compare: methods of prune.py, each with flags of its own if it has any; grid; "
                             "unpruned")
    parser.add_argument("--seeds", type=cli.within(int, 0, 2 ** 32 - 1), nargs="+", default=[0, 1, 2],
                        help="of pruning and of retraining")
    parser.add_argument("--grid_depths", type=int, nargs="+", default=[16, 22, 28, 40],
                        help="depths of the grid; each takes the widest network that meets the latency")
    parser.add_argument("--prune_flags", type=shlex.split, default=[], help="flags of prune.py, for every method")
    parser.add_argument("--train_flags", type=shlex.split, default=[], help="flags of train.py, for every network")
    parser.add_argument("--dataset", choices=("cifar10", "digits"), help="(default: the base model's)")
    parser.add_argument("--data_loc", help="(default: the base model's)")
    parser.add_argument("--jobs", type=cli.within(int, 1, 4096), default=1, help="networks that are made at a time")
    parser.add_argument("--num_threads", type=cli.within(int, 1, 256),
                        help="of the runtime that measures (default: the table's)")
    parser.add_argument("--no_measure", action="store_true",
                        help="neither export nor measure: the picture is of predicted latencies")
    parser.add_argument("--resume", action="store_true",
                        help="go on after an interruption, or with more methods, seeds or latencies")
    return parser


@dataclass(frozen=True)
class Task:
    """A network to make."""

    method: str  # a method of prune.py, grid or unpruned
    flags: Tuple[str, ...]  # of prune.py, the method's own
    pruning_fact: float  # NaN: unpruned
    seed: int
    network: Network  # that is pruned, or trained as it is

    @property
    def criterion(self) -> str:
        return " ".join(f.lstrip("-").replace("pruning_method=", "") for f in self.flags)

    @property
    def size(self) -> str:
        return "-".join(f"{self.network.arguments[k]:g}" if k != "net" else self.network.arguments[k]
                        for k in ("net", "depth", "width"))

    @property
    def name(self) -> str:
        words = [self.method, *self.criterion.replace("=", "-").split(), *([self.size] if self.method == "grid" else []),
                 *([] if math.isnan(self.pruning_fact) else [f"{self.pruning_fact:g}"]), f"seed{self.seed}"]
        return "-".join(words).replace("/", "_")


@dataclass(frozen=True)
class Base:
    """What everything is compared on."""

    content: Dict[str, Any]  # of the checkpoint
    path: Path
    table_path: Path
    network: Network
    widths: Widths
    table: latency_table.LatencyTable

    def latency_s(self, network: Network, widths: Widths) -> float:
        return latency_table.latency_s(network, widths, self.table)

    def budget_s(self, pruning_fact: float) -> float:
        return netadapt.budget_s(netadapt.Settings(pruning_fact), self.latency_s(self.network, self.widths))


def main() -> None:
    args = get_parser().parse_args()
    if args.plot_only:
        plot_only(Path(args.plot_only))
        return
    for flag in ("save_file", "base_model", "perf_table"):
        if not getattr(args, flag):
            raise UserError(f"--{flag} is needed (only --plot_only goes without)")
    folder = writable_folder(Path("comparisons") / save_name(args.save_file))
    base = open_base(args)
    tasks = list({task.name: task for task in tasks_of(args, base)}.values())
    with journal.locked(folder / "journal.jsonl"):
        compare(args, folder, base, tasks)


def plot_only(path: Path) -> None:
    from utils.plots import plot_comparison
    rows = comparison.read_csv(path)
    picture = path.with_suffix(".png")
    plot_comparison(picture, rows, path.stem)
    print(f"{picture}: {len(comparison.drawable(rows))} of {len(rows)} networks")


def open_base(args: argparse.Namespace) -> Base:
    from utils import checkpoint
    path = locate(args.base_model, "checkpoints", ".t7").resolve()
    content = checkpoint.load(path)
    model = checkpoint.build(content, path)
    table_path = latency_table.table_path(args.perf_table).resolve()
    return Base(content, path, table_path, model.network, model.widths, latency_table.read_table(table_path, model.network))


# --- what is made ----------------------------------------------------------------------------------------------

def tasks_of(args: argparse.Namespace, base: Base) -> Iterator[Task]:
    """The networks of one seed after those of another: an interrupted comparison has something of everything."""
    for seed in args.seeds:
        for words in args.methods:
            method, *flags = words or [""]
            if method not in ("netadapt", *baselines.METHODS, *TRAINED_ONLY):
                known = ", ".join(("netadapt", *baselines.METHODS, *TRAINED_ONLY))
                raise UserError(f"--methods: expected {known}, found {method!r}")
            if method == "unpruned":
                yield Task(method, (), math.nan, seed, base.network)
                continue
            for pruning_fact in args.pruning_facts:
                networks = grid(base, args.grid_depths, pruning_fact) if method == "grid" else [base.network]
                for network in networks:
                    yield Task(method, tuple(flags), pruning_fact, seed, network)


def grid(base: Base, depths: List[int], pruning_fact: float) -> Iterator[Network]:
    """Of every depth the widest network, in sixteenths, that meets the latency."""
    for depth in depths:
        for sixteenths in range(int(16 * base.network.arguments["width"]), 0, -1):
            network = cli.describe_or_fail(**{**base.network.arguments, "depth": depth, "width": sixteenths / 16})
            if base.latency_s(network, network.full_widths) <= base.budget_s(pruning_fact):
                yield network
                break


def errand_of(args: argparse.Namespace, base: Base, folder: Path, task: Task) -> Errand:
    """The commands that make a network: prune, retrain from scratch, export."""
    from utils import checkpoint
    name, arguments, known = task.name, task.network.arguments, checkpoint.data_flags(base.content)
    data = [f"--dataset={args.dataset or known['dataset']}",
            f"--data_loc={Path(args.data_loc or known['data_loc']).expanduser().resolve()}"]
    train = ["train.py", *(f"--{k}={arguments[k]}" for k in ("net", "depth", "width")), *data, f"--seed={task.seed}",
             f"--holdout_prop={base.content['holdout_prop'] or 0.1}", *map(found_from_here, args.train_flags),
             f"--save_file={name}", "--resume"]
    commands = []
    if task.method not in TRAINED_ONLY:
        commands.append(["prune.py", f"--base_model={base.path}", f"--perf_table={base.table_path}", *data,
                         f"--method={task.method}", f"--pruning_fact={task.pruning_fact}", f"--seed={task.seed}",
                         *args.prune_flags, *task.flags, f"--save_file={name}-pruned", "--resume"])
        train.append(f"--channels={name}-pruned")
    commands.append(train)
    if not args.no_measure:
        commands.append(["export.py", f"--checkpoint={name}", f"--output=exported/{name}.tflite", *data])
    return Errand(name, str(folder), f"logs/{name}.log", tuple((str(HERE / script), *more) for script, *more in commands))


def found_from_here(flag: str) -> str:
    """A teacher is named as seen from the user's folder, while the commands run in the comparison's."""
    name, _, value = flag.partition("=")
    return f"--teacher={locate(value, 'checkpoints', '.t7').resolve()}" if name == "--teacher" and value else flag


def row_of(base: Base, folder: Path, task: Task) -> Row:
    """What the checkpoints say of a network that is finished."""
    from utils import checkpoint
    made = checkpoint.load(folder / "checkpoints" / f"{task.name}.t7")
    pruned = {} if task.method in TRAINED_ONLY else checkpoint.load(folder / "checkpoints" / f"{task.name}-pruned.t7")
    widths = made["widths"]
    return Row(task.name, task.method, task.criterion, task.size, str(task.seed), task.pruning_fact,
               pruned.get("test_error", math.nan), made["error_history"][-1], base.latency_s(task.network, widths),
               parameters=task.network.parameter_count(widths), macs=task.network.multiply_adds(widths))


# --- making it -------------------------------------------------------------------------------------------------

def compare(args: argparse.Namespace, folder: Path, base: Base, tasks: List[Task]) -> None:
    """Make every network that is not made yet, then measure them all together, and write what is known after each."""
    path = folder / "journal.jsonl"
    rows = take_up(args, path, base, tasks)
    for name in ("logs", "exported"):
        writable_folder(folder / name)
    todo = {task.name: task for task in tasks if task.name not in rows}
    print(f"{folder}: {len(tasks)} networks, {len(todo)} to be made", flush=True)
    failed = []
    with journal.Journal(path) as log:
        for row, problem in made(args, base, folder, todo):
            if problem:
                failed.append(problem)
                continue
            rows[row.file_name] = row
            log.append(asdict(row))
            log.sync()
            write_results(folder, rows.values())
    if not args.no_measure and rows:
        measure(args, folder, base, rows)
    report(folder, rows.values())
    if failed:
        raise UserError(f"{len(failed)} of {len(tasks)} networks could not be made, first {failed[0]}; the others are kept, "
                        "the same command with --resume tries again")


def made(args, base: Base, folder: Path, todo: Dict[str, Task]) -> Iterator[Tuple[Optional[Row], str]]:
    """(a network's row, "") or (None, what went wrong), as they get ready, with a word on how long the others take."""
    from utils.workers import Workers
    if not todo:
        return
    began, done = time.monotonic(), 0
    with Workers(min(args.jobs, len(todo))) as workers:
        for outcome in workers.results(errands.carry_out, (), [errand_of(args, base, folder, t) for t in todo.values()]):
            done += 1
            left = (time.monotonic() - began) / done * (len(todo) - done) / 60
            log = folder / "logs" / f"{outcome.name}.log"
            if outcome.code:
                print(f"{outcome.name}: exit code {outcome.code}, see {log}", flush=True)
                yield None, f"{log}: {errands.last_line(log)}"
                continue
            row = row_of(base, folder, todo[outcome.name])
            before = "" if math.isnan(row.no_fine_tune) else f" (before retraining {row.no_fine_tune:.2f}%)"
            print(f"{done}/{len(todo)}  {row.file_name}: {row.table_time * 1e3:.4f} ms predicted, test error "
                  f"{row.retrain_scratch:.2f}%{before}  {left:.0f} min left", flush=True)
            yield row, ""


def take_up(args: argparse.Namespace, path: Path, base: Base, tasks: List[Task]) -> Dict[str, Row]:
    """The networks that are finished, of those asked for. Raises UserError rather than mix two comparisons."""
    header = {"base_model": base.path.name, "base_weights_sha256": weights_sha256(base.content["state_dict"]),
              "perf_table": base.table_path.name,
              "perf_table_sha256": hashlib.sha256(base.table_path.read_bytes()).hexdigest(),
              "prune_flags": args.prune_flags, "train_flags": args.train_flags}
    found = journal.read(path)
    if found and not args.resume:
        raise UserError(f"{path}: a comparison of that name; add --resume to go on, or choose another --save_file")
    if not found:
        journal.begin(path, header)
        return {}
    for key, value in header.items():
        if found[0].get(key) != value:
            raise UserError(f"{path}: began with {key} {found[0].get(key)!r}, now {value!r}; choose another --save_file")
    asked, rows = {task.name for task in tasks}, {}
    for record in found[1]:  # of one network the last line counts
        try:
            row = Row(**record)
        except TypeError:
            raise UserError(f"{path}: a line in it is no network of a comparison; choose another --save_file") from None
        if row.file_name in asked:
            rows[row.file_name] = row
    return rows


def weights_sha256(state: Mapping[str, Any]) -> str:
    """Of the weights alone: the same network trained again with the same seed may be compared on too."""
    found = hashlib.sha256()
    for name, value in sorted(state.items()):
        found.update(f"{name} {tuple(value.shape)} ".encode() + value.numpy().tobytes())
    return found.hexdigest()


# --- measuring and reporting -----------------------------------------------------------------------------------

def measure(args: argparse.Namespace, folder: Path, base: Base, rows: Dict[str, Row]) -> None:
    """Time all exported networks in one session, in random order, so that they meet the same machine."""
    from utils import machine, whole_model
    from utils.benchmark import LiteRTRunner
    files = {name: folder / "exported" / f"{name}.tflite" for name in rows}
    runner = LiteRTRunner(args.num_threads or machine.threads_of(latency_table.read_provenance(base.table_path)))
    measured = whole_model.measure_together(files, runner, whole_model.CARE)
    for name, seconds in measured.items():
        rows[name] = replace(rows[name], measured_time=seconds, file_bytes=files[name].stat().st_size)
    write_results(folder, rows.values())


def write_results(folder: Path, rows) -> None:
    from utils.plots import plot_comparison
    rows = sorted(rows, key=lambda r: (r.method, r.criterion, r.pruning_fact, r.network, r.seed))
    write_whole(folder / f"{folder.name}.csv", comparison.to_csv(rows))
    if comparison.drawable(rows):
        plot_comparison(folder / f"{folder.name}.png", rows, folder.name)


def report(folder: Path, rows) -> None:
    """A line per method and latency: means over the seeds."""
    print(f"\n{'':<32}{'test error, %':>16}{'predicted, ms':>16}{'measured, ms':>24}{'size, KB':>11}{'networks':>10}")
    for p in comparison.points(rows):
        error = f"{p.error_pct:.2f}" + ("" if math.isnan(p.deviation) else f" ± {p.deviation:.2f}")
        measured = "-" if math.isnan(p.measured_s) else f"{p.measured_s * 1e3:.4f} ({p.measured_s / p.table_s - 1:+.1%})"
        size = "-" if math.isnan(p.file_bytes) else f"{p.file_bytes / 1e3:,.0f}"
        print(f"{p.label:<32}{error:>16}{p.table_s * 1e3:>16.4f}{measured:>24}{size:>11}{p.count:>10}")
    print(f"\n{folder / folder.name}.csv, {folder / folder.name}.png")


if __name__ == "__main__":
    cli.run(main)
