"""Prune by several methods, retrain from scratch, export, measure: error against latency, of all of them in one picture.

    python compare.py --save_file=res-16-1 --base_model=res-16-1 --perf_table=res-16-1-avx512 --pruning_facts 0.3 0.5 \\
        --methods netadapt uniform random knapsack grid --seeds 0 1 2 --train_flags='--epochs=20 --lr_type=cosine' --jobs=2
    python compare.py --plot-only results.csv                      # the picture of a CSV file, of any origin

A method may have flags of prune.py of its own: --methods netadapt 'netadapt --pruning_method=fisher'. ``grid`` is smaller
networks of the same architecture, ``unpruned`` the network as it is; both are only trained. Everything happens in
comparisons/SAVE_FILE/, by the commands that comparisons/SAVE_FILE/logs/ shows; SAVE_FILE.csv and SAVE_FILE.png there have
a line and a dot for every network that is finished. After an interruption --resume goes on. A network's result depends on
its seed and on --threads, not on --jobs; of several GPUs every job has its own.
"""

import argparse
import hashlib
import math
import re
import shlex
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

from model.network import Network, Widths
from utils import baselines, cli, commands, comparison, grid, journal, latency_table, netadapt
from utils.channels import write_channels
from utils.commands import Job, Outcome
from utils.comparison import Row
from utils.errors import UserError
from utils.files import locate, save_name, writable_folder, write_whole

HERE = Path(__file__).resolve().parent
TRAINED_ONLY = ("grid", "unpruned")
OURS = ("net", "depth", "width", "channels", "dataset", "data_loc", "holdout_prop", "seed", "threads", "save_file", "resume",
        "base_model", "perf_table", "method", "pruning_fact", "plan", "json")  # flags that a comparison sets itself
MEASURED = "measured.json"  # in a comparison's folder: latencies that the device itself measured
LONGEST = 80  # characters of a network's name


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
    parser.add_argument("--grid_perf_table", metavar="PERF_TABLE",
                        help="table of a wider network, measured on the same device, that the grid is priced by and may be as "
                             "wide as (default: --perf_table, and so no wider than the base)")
    parser.add_argument("--prune_flags", type=shlex.split, default=[], help="flags of prune.py, for every method")
    parser.add_argument("--train_flags", type=shlex.split, default=[], help="flags of train.py, for every network")
    parser.add_argument("--dataset", choices=("cifar10", "digits"), help="(default: the base model's)")
    parser.add_argument("--data_loc", help="(default: the base model's)")
    parser.add_argument("--jobs", type=cli.within(int, 1, 4096), default=1,
                        help="networks that are made at a time, each on a GPU of its own where there are several")
    parser.add_argument("--threads", type=cli.within(int, 1, 4096),
                        help="of each of them; results depend on it (default: the machine's cores, shared out)")
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
        return " ".join(self.flags).replace("--pruning_method=", "").replace("--", "")

    @property
    def size(self) -> str:
        return "-".join(f"{self.network.arguments[k]:g}" if k != "net" else self.network.arguments[k]
                        for k in ("net", "depth", "width"))

    @property
    def name(self) -> str:
        words = [self.method, *self.flags, *([self.size] if self.method == "grid" else []),
                 *([] if math.isnan(self.pruning_fact) else [repr(self.pruning_fact)]), f"seed{self.seed}"]
        whole = re.sub(r"[^\w.]+", "-", "-".join(words))
        return whole if len(whole) <= LONGEST else f"{whole[:LONGEST - 9]}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Base:
    """What everything is compared on."""

    content: Dict[str, Any]  # of the checkpoint
    path: Path
    table_path: Path
    network: Network
    widths: Widths
    table: latency_table.LatencyTable
    grid_network: Network  # the grid may be as wide
    grid_table: latency_table.LatencyTable  # of that network

    def latency_s(self, widths: Widths) -> float:
        return latency_table.latency_s(self.network, widths, self.table)

    def grid_latency_s(self, network: Network) -> float:
        return latency_table.latency_s(network, network.full_widths, self.grid_table)

    def budget_s(self, pruning_fact: float) -> float:
        return netadapt.budget_s(netadapt.Settings(pruning_fact), self.latency_s(self.widths))


def main() -> None:
    args = get_parser().parse_args()
    if args.plot_only:
        plot_only(Path(args.plot_only))
        return
    for flag in ("save_file", "base_model", "perf_table"):
        if not getattr(args, flag):
            raise UserError(f"--{flag} is needed (only --plot_only goes without)")
    folder = Path("comparisons") / save_name(args.save_file)
    check_flags(args)
    base = open_base(args)
    if args.teacher:
        from utils.distillation import open_teacher
        open_teacher(args.teacher, base.network)  # what is wrong with it is said before hours of work
    tasks = {task.name: task for task in tasks_of(args, base)}
    if not tasks:
        raise UserError("nothing to make: no network of --grid_depths meets --pruning_facts")
    with journal.locked(writable_folder(folder) / "journal.jsonl"):
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
    table = latency_table.read_table(table_path, model.network)
    grid_network, grid_table = grid.open_table(args.grid_perf_table, model.network) if args.grid_perf_table else (model.network, table)
    return Base(content, path, table_path, model.network, model.widths, table, grid_network, grid_table)


def check_flags(args: argparse.Namespace) -> None:
    """Raise UserError for flags that prune.py and train.py would refuse, hours later, or that a comparison sets itself."""
    import prune
    import train
    needed = {prune: ["--perf_table=x", "--pruning_fact=0.5"], train: ["--save_file=x"]}
    several = [("--train_flags", train, args.train_flags), ("--prune_flags", prune, args.prune_flags)]
    for words in args.methods:
        method, *flags = words or [""]
        known = ("netadapt", *baselines.METHODS, *TRAINED_ONLY)
        if method not in known:
            raise UserError(f"--methods: expected {', '.join(known)}, found {method!r}")
        if method in TRAINED_ONLY and flags:
            raise UserError(f"--methods: {method} is only trained and takes no flags, found {' '.join(flags)}")
        several.append(("--methods", prune, flags))
    for where, script, flags in several:
        for flag in flags:
            if flag.startswith("--") and flag[2:].partition("=")[0] in OURS:
                raise UserError(f"{where}: {flag} is for the comparison to set; leave it out")
        check_device(where, cli.parsed(script.get_parser(), [*needed[script], *flags], where))
    args.methods = [[method, *own_flags(method, flags, args.prune_flags)] for method, *flags in args.methods]
    teacher = cli.parsed(train.get_parser(), [*needed[train], *args.train_flags], "--train_flags").teacher
    args.teacher = locate(teacher, "checkpoints", ".t7").resolve() if teacher else None


def check_device(where: str, given: argparse.Namespace) -> None:
    from utils import device
    if given.device != "auto":
        try:
            device.pick(given.device, given.precision)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error


def own_flags(method: str, flags: List[str], prune_flags: List[str]) -> List[str]:
    """What a method's flags change in prune.py, in one spelling and order: two spellings of a method are one method."""
    import prune

    def meant(given: List[str]) -> Dict[str, Any]:
        found = vars(prune.get_parser().parse_args(["--perf_table=x", "--pruning_fact=0.5", *given]))
        return {**found, "pruning_method": found["pruning_method"] or prune.default_scores(method)}

    before = meant(prune_flags)
    changed = {k: str(v).removesuffix(".0") for k, v in meant([*prune_flags, *flags]).items() if v != before[k]}
    return [f"--{k}" if v == "True" else f"--{k}={v}" for k, v in changed.items()]


# --- what is made ----------------------------------------------------------------------------------------------

def tasks_of(args: argparse.Namespace, base: Base) -> Iterator[Task]:
    """The networks of one seed after those of another: an interrupted comparison has something of everything."""
    budgets_s = {pruning_fact: base.budget_s(pruning_fact) for pruning_fact in args.pruning_facts}
    grids = grid.networks(base.grid_network, base.grid_latency_s, args.grid_depths, budgets_s) if ["grid"] in args.methods else {}
    for seed in args.seeds:
        for method, *flags in args.methods:
            if method == "unpruned":
                yield Task(method, (), math.nan, seed, base.network)
                continue
            for pruning_fact in args.pruning_facts:
                for network in grids[pruning_fact] if method == "grid" else [base.network]:
                    yield Task(method, tuple(flags), pruning_fact, seed, network)


def job_of(args: argparse.Namespace, base: Base, folder: Path, task: Task) -> Job:
    """The commands that make a network: prune, retrain from scratch, export."""
    from utils import checkpoint
    name, arguments, known = task.name, task.network.arguments, checkpoint.data_flags(base.content)
    data = [f"--dataset={args.dataset or known['dataset']}",
            f"--data_loc={Path(args.data_loc or known['data_loc']).expanduser().resolve()}"]
    run = [f"--seed={task.seed}", f"--threads={args.threads}", "--resume"]
    train = ["train.py", *(f"--{k}={arguments[k]}" for k in ("net", "depth", "width")), *data, *run, *args.train_flags,
             f"--holdout_prop={base.content['holdout_prop'] or 0.1}", f"--save_file={name}",
             *([f"--teacher={args.teacher}"] if args.teacher else [])]  # as seen from here, not from there
    todo = []
    if task.method == "unpruned":
        train.append("--channels=base")
    elif task.method != "grid":
        todo.append(["prune.py", f"--base_model={base.path}", f"--perf_table={base.table_path}", *data, *run,
                     f"--method={task.method}", f"--pruning_fact={task.pruning_fact}", *args.prune_flags, *task.flags,
                     f"--save_file={name}-pruned"])
        train.append(f"--channels={name}-pruned")
    todo.append(train)
    if not args.no_measure:
        todo.append(["export.py", f"--checkpoint={name}", f"--output={exported(name)}", "--no_measure", *data])
    return Job(name, str(folder), f"logs/{name}.log", tuple((str(HERE / script), *flags) for script, *flags in todo))


def exported(name: str) -> Path:
    """From the comparison's folder."""
    return Path("exported") / f"{name}.tflite"


def row_of(base: Base, folder: Path, task: Task) -> Row:
    """What the checkpoints say of a network that is finished."""
    from utils import checkpoint
    made = checkpoint.load(folder / "checkpoints" / f"{task.name}.t7")
    pruned = {} if task.method in TRAINED_ONLY else checkpoint.load(folder / "checkpoints" / f"{task.name}-pruned.t7")
    widths = made["widths"]
    predicted_s = base.grid_latency_s(task.network) if task.method == "grid" else base.latency_s(widths)
    return Row(task.name, task.method, task.criterion, task.size, str(task.seed), task.pruning_fact,
               pruned.get("test_error", math.nan), made["error_history"][-1], predicted_s,
               parameters=task.network.parameter_count(widths), macs=task.network.multiply_adds(widths))


# --- making it -------------------------------------------------------------------------------------------------

def compare(args: argparse.Namespace, folder: Path, base: Base, tasks: Dict[str, Task]) -> None:
    """Make every network that is not made yet, then measure them all together, and write what is known after each."""
    path = folder / "journal.jsonl"
    if (folder / MEASURED).exists():
        comparison.read_device(folder / MEASURED)  # what is wrong with it is said before hours of work
    rows = take_up(args, path, base)
    for name in ("logs", "exported", "nbr_channels"):
        writable_folder(folder / name)
    write_channels(folder / "nbr_channels/base.pickle", base.network, base.widths)
    todo = {name: task for name, task in tasks.items() if not finished(args, folder, row_for(task, rows))}
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
        if not args.no_measure:
            measure(args, folder, base, rows, log)
    if rows:
        write_results(folder, rows.values())  # also where a kill came between a network's line and its picture
        report(folder, rows.values())
    if failed:
        raise UserError(f"{len(failed)} of {len(tasks)} networks could not be made, first {failed[0]}; the others are kept, "
                        "the same command with --resume tries again")


def row_for(task: Task, rows: Dict[str, Row]) -> Optional[Row]:
    """The task's row, or that of the same network of the grid, made for another latency."""
    if task.name in rows or task.method != "grid":
        return rows.get(task.name)
    same = (row for row in rows.values() if (row.method, row.network, row.seed) == ("grid", task.size, str(task.seed)))
    return next(same, None)


def finished(args: argparse.Namespace, folder: Path, row: Optional[Row]) -> bool:
    """Whether a network is trained, and, where it is to be measured, was or can be."""
    return row is not None and (args.no_measure or not math.isnan(row.measured_time)
                                or (folder / exported(row.file_name)).exists())


def made(args, base: Base, folder: Path, todo: Dict[str, Task]) -> Iterator[Tuple[Optional[Row], str]]:
    """(a network's row, "") or (None, what went wrong), as they get ready, with a word on how long the others take."""
    from utils.workers import Workers
    if not todo:
        return
    began, done = time.monotonic(), 0
    with Workers(min(args.jobs, len(todo))) as workers:
        for outcome in workers.results(make, (), [job_of(args, base, folder, t) for t in todo.values()]):
            done += 1
            left = (time.monotonic() - began) / done * (len(todo) - done) / 60
            log = folder / "logs" / f"{outcome.name}.log"
            if outcome.code:
                print(f"{outcome.name}: exit code {outcome.code}, see {log}", flush=True)
                yield None, f"{log}: {commands.last_line(log)}"
                continue
            row = row_of(base, folder, todo[outcome.name])
            before = "" if math.isnan(row.no_fine_tune) else f" (before retraining {row.no_fine_tune:.2f}%)"
            print(f"{done}/{len(todo)}  {row.file_name}: {row.table_time * 1e3:.4f} ms predicted, test error "
                  f"{row.retrain_scratch:.2f}%{before}  {left:.0f} min left", flush=True)
            yield row, ""


def make(job: Job) -> Outcome:
    """In a worker: one network, on a GPU of the worker's own where there are several."""
    from utils import device
    from utils.workers import worker_number
    device.take_gpu(worker_number())
    return commands.carry_out(job)


def take_up(args: argparse.Namespace, path: Path, base: Base) -> Dict[str, Row]:
    """The networks that are finished, whoever asked for them. Raises UserError rather than mix two comparisons."""
    from joblib import cpu_count
    from utils import checkpoint
    found = journal.read(path)
    if found and found[1] and not args.resume:
        raise UserError(f"{path}: a comparison of that name; add --resume to go on, or choose another --save_file")
    known = checkpoint.data_flags(base.content)
    cores = max(cpu_count() // args.jobs, 1)
    args.threads = args.threads or (found[0].get("threads") if found else None) or cores
    header = {"base_model": base.path.name, "base_weights_sha256": checkpoint.weights_sha256(base.content),
              "perf_table": base.table_path.name, "perf_table_sha256": latency_table.sha256(base.table),
              "grid_table_sha256": latency_table.sha256(base.grid_table) if args.grid_perf_table else None,
              "dataset": args.dataset or known["dataset"], "images": Path(args.data_loc or known["data_loc"]).name,
              "prune_flags": args.prune_flags, "train_flags": args.train_flags, "threads": args.threads,
              "teacher_weights_sha256": args.teacher and checkpoint.weights_sha256(checkpoint.load(args.teacher))}
    begun = any(f for kind in ("checkpoints/*.t7", "history/*.unfinished.jsonl") for f in path.parent.glob(kind))
    if not found or not found[1] and not begun:  # nothing that could be mixed up
        journal.begin(path, header)
        return {}
    for key, value in header.items():
        if found[0].get(key) != value:
            raise UserError(f"{path}: began with {key} {found[0].get(key)!r}, now {value!r}; choose another --save_file"
                            + ("" if found[1] else f", or remove {path.parent}: no network in it is finished"))
    rows = {}
    for number, record in enumerate(found[1], 2):  # of one network the last line counts
        try:
            row = comparison.from_record(record)
        except ValueError as error:
            raise UserError(f"{path}: line {number}: no network of a comparison ({error}); choose another --save_file") from None
        rows[row.file_name] = row
    return rows


# --- measuring and reporting -----------------------------------------------------------------------------------

def measure(args: argparse.Namespace, folder: Path, base: Base, rows: Dict[str, Row], log: journal.Journal) -> None:
    """Take the latencies from the device's file, if there is one, or measure here; keep them."""
    files = {name: folder / exported(name) for name in rows if (folder / exported(name)).exists()}
    device_file = folder / MEASURED
    if device_file.exists():
        measured = measured_there(device_file, rows)
    elif files:
        measured = measured_here(args, folder, base, files)
    else:
        return
    for name, seconds in measured.items():
        bytes_ = files[name].stat().st_size if name in files else rows[name].file_bytes
        rows[name] = replace(rows[name], measured_time=seconds, file_bytes=bytes_)
        log.append(asdict(rows[name]))


def measured_there(path: Path, rows: Dict[str, Row]) -> Dict[str, float]:
    """What the device took, NaN for networks that were not measured there: no other machine's time stands among them."""
    device, seconds = comparison.read_device(path)
    missing = [name for name in rows if name not in seconds]
    words = f"; {len(missing)} of {len(rows)} networks, {missing[0]} for one, are not in it: only predicted" if missing else ""
    print(f"{path}: latencies measured on {device or 'a device that it does not name'}{words}", flush=True)
    return {name: seconds.get(name, math.nan) for name in rows}


def measured_here(args: argparse.Namespace, folder: Path, base: Base, files: Dict[str, Path]) -> Dict[str, float]:
    """Time all exported networks in one session, in random order, so that they meet the same machine."""
    from utils import machine, measuring, whole_model
    from utils.benchmark import LiteRTRunner
    note = latency_table.read_provenance(base.table_path)
    runner = LiteRTRunner(args.num_threads or machine.threads_of(note))
    now = {**runner.describe(), "num_images": 1, "device": measuring.device()}
    if note.get("device", now["device"]) != now["device"]:
        print(f"measuring on this machine, which the table is not of. For the device's own latencies, copy {folder}/exported there,\n"
              f"    python compute_table.py --mode=measure --model exported/*.tflite --json > {MEASURED}\n"
              f"put that file into {folder} and run this command again with --resume", file=sys.stderr, flush=True)
    probe = whole_model.table_probe(base.table_path, base.network, now)
    found = whole_model.measure_together(files, runner, whole_model.CARE, probe)
    if found.ratio:
        print(whole_model.about_probe(found.ratio), flush=True)
    return found.seconds


def write_results(folder: Path, rows) -> None:
    from utils.plots import plot_comparison
    rows = sorted(rows, key=lambda r: (r.method, r.criterion, r.pruning_fact, r.network, r.seed))
    write_whole(folder / f"{folder.name}.csv", comparison.to_csv(rows))
    if comparison.drawable(rows):
        plot_comparison(folder / f"{folder.name}.png", rows, folder.name)


def report(folder: Path, rows) -> None:
    """A line per method and latency: means over the seeds."""
    print(f"\n{'':<32}{'test error, %':>16}{'predicted, ms':>16}{'measured, ms':>24}{'size, KB':>11}{'networks':>10}")
    points = comparison.points(rows)
    for title, p in zip(comparison.titles(points), points):
        error = f"{p.error_pct:.2f}" + ("" if math.isnan(p.deviation) else f" ± {p.deviation:.2f}")
        measured = "-" if math.isnan(p.measured_s) else f"{p.measured_s * 1e3:.4f} ({p.measured_s / p.table_s - 1:+.1%})"
        size = "-" if math.isnan(p.file_bytes) else f"{p.file_bytes / 1e3:,.0f}"
        print(f"{title:<32}{error:>16}{p.table_s * 1e3:>16.4f}{measured:>24}{size:>11}{p.count:>10}")
    print(f"\n{folder / folder.name}.csv, {folder / folder.name}.png")


if __name__ == "__main__":
    cli.run(main)
