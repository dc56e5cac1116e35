"""Compare methods: prune by each, retrain from scratch, export, measure, and draw error against latency in one picture.

    python compare.py --save_file=res-16-1 --base_model=res-16-1 --perf_table=res-16-1-avx512 --pruning_facts 0.3 0.5 \\
        --methods netadapt uniform random knapsack grid --seeds 0 1 2 \\
        --train_flags='--epochs=20 --lr_type=cosine' --jobs=2
    python compare.py --plot-only results.csv                      # only draw a CSV file, also one of another program

A quoted method may have its own flags of prune.py: --methods netadapt 'netadapt --pruning_method=fisher'. Two methods
only train: ``grid`` trains smaller networks of the same architecture, and ``unpruned`` trains the base network again.

All results are in the folder comparisons/SAVE_FILE/. Its logs/ shows the commands that made them. SAVE_FILE.csv and
SAVE_FILE.png there have a line and a dot for every finished network. After an interruption, the same command with
--resume continues. The result of a network depends on its seed and on --threads, but not on --jobs. If there are
several GPUs, each job has its own.
"""

if __name__ == "__main__":
    from utils.common.signals import answer_at_once
    answer_at_once()

import argparse
import math
import shlex
from collections.abc import Iterable
from pathlib import Path

from utils.common import cli
from utils.common.errors import UserError
from utils.common.figure import as_the_result
from utils.common.files import locate, save_name, writable_folder
from utils.common.lock import locked
from utils.comparison import results
from utils.comparison.plots import plot_comparison
from utils.comparison.results import Row
from utils.comparison.settings import Comparison
from utils.deploy import metadata
from utils.latency.table_files import table_path


def get_parser() -> argparse.ArgumentParser:
    parser = cli.new_parser(__doc__)
    parser.add_argument("--plot_only", "--plot-only", metavar="CSV",
                        help="draw the picture of this CSV file beside it, and do nothing else")
    parser.add_argument("--save_file", help="name of the comparison, comparisons/SAVE_FILE/")
    parser.add_argument("--base_model", help="trained network, checkpoints/BASE_MODEL.t7 or a path")
    parser.add_argument("--perf_table", help="its latency table, perf_tables/PERF_TABLE.pickle or a path")
    parser.add_argument("--pruning_facts", type=cli.fraction, nargs="+", default=[0.4],
                        help="parts of the latency to remove")
    parser.add_argument("--methods", type=shlex.split, nargs="+",
                        default=[[m] for m in ("trade", "netadapt", "params", "knapsack", "uniform", "random", "grid",
                                               "unpruned")],
                        help="what to compare: methods of prune.py, each with or without its own flags; grid; "
                             "unpruned")
    parser.add_argument("--seeds", type=cli.within(int, 0, 2 ** 32 - 1), nargs="+", default=[0, 1, 2],
                        help="seeds of pruning and of retraining")
    parser.add_argument("--grid_depths", type=int, nargs="+", default=[16, 22, 28, 40],
                        help="depths of the grid; each takes the widest network that meets the latency")
    parser.add_argument("--grid_perf_table", metavar="PERF_TABLE",
                        help="table of a wider network, measured on the same device: it predicts the grid's latencies, "
                             "and the grid may be as wide (default: --perf_table, and so no wider than the base)")
    parser.add_argument("--prune_flags", type=shlex.split, default=[], help="flags of prune.py, for every method")
    parser.add_argument("--train_flags", type=shlex.split, default=[], help="flags of train.py, for every network")
    parser.add_argument("--dataset", choices=("cifar10", "digits"), help="(default: the base model's)")
    parser.add_argument("--data_loc", help="(default: the base model's)")
    parser.add_argument("--jobs", type=cli.within(int, 1, 4096), default=1,
                        help="networks that are made at a time; with several GPUs, each has its own")
    parser.add_argument("--threads", type=cli.within(int, 1, 4096),
                        help="threads of each of them; results depend on them (default: the machine's cores, divided "
                             "among the --jobs)")
    parser.add_argument("--num_threads", type=cli.within(int, 1, 256),
                        help="threads of the runtime that measures (default: the table's)")
    parser.add_argument("--no_measure", action="store_true",
                        help="neither export nor measure: the picture is of predicted latencies")
    parser.add_argument("--resume", action="store_true",
                        help="go on after an interruption, or with more methods, seeds or latencies")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    if args.plot_only:
        plot_only(Path(args.plot_only))
        return
    for flag in ("save_file", "base_model", "perf_table"):
        if not getattr(args, flag):
            raise UserError(f"--{flag} is needed (only --plot_only goes without)")
    folder = Path("comparisons") / save_name(args.save_file)

    from utils.comparison import assembly, flags, plan  # torch takes seconds to load: first what does not need it
    from utils.learning import checkpoint
    from utils.learning.data import RANDOM
    from utils.search import defaults
    teacher = flags.teacher_in(args.train_flags)
    base = assembly.open_base(locate(args.base_model, "checkpoints", ".t7").resolve(),
                              table_path(args.perf_table).resolve(), args.grid_perf_table)
    methods = flags.checked_methods(args.methods, args.prune_flags, args.train_flags,
                                    defaults.training_of(base.content))
    if teacher:
        checkpoint.open_teacher(teacher, base.network)  # its errors are reported before hours of work
    data = checkpoint.data_of(base.content, args.dataset, args.data_loc, workers=0)
    if data.dataset == RANDOM:
        raise UserError(f"{base.path}: its images are not known, and networks are to be trained; name them with "
                        "--data_loc or --dataset")
    comparison = Comparison(methods, tuple(args.pruning_facts), tuple(args.seeds), tuple(args.grid_depths),
                            tuple(args.prune_flags), tuple(args.train_flags), data.dataset, data.data_loc, teacher,
                            flags.precision_of(args.train_flags), args.jobs, args.threads, args.num_threads,
                            not args.no_measure)
    tasks = {task.name: task for task in plan.tasks_of(comparison, base)}
    if not tasks:
        raise UserError("nothing to make: no network of --grid_depths meets --pruning_facts")
    with locked(writable_folder(folder) / "journal.jsonl"):
        rows, failed = assembly.compare(comparison, folder, base, tasks, metadata.read, going_on=args.resume)
    if rows:
        report(folder, rows.values())
    if failed:
        raise UserError(f"{len(failed)} of {len(tasks)} networks could not be made, first {failed[0]}; the others are "
                        "kept, the same command with --resume tries again")


def plot_only(path: Path) -> None:
    rows = results.read_csv(path)
    picture = path.with_suffix(".png")
    with as_the_result():
        plot_comparison(picture, rows, path.stem)
    print(f"{picture}: {len(results.drawable(rows))} of {len(rows)} networks")


def report(folder: Path, rows: Iterable[Row]) -> None:
    """Print a line per method and latency, with means over the seeds."""
    print(f"\n{'':<32}{'test error, %':>16}{'predicted, ms':>16}{'measured, ms':>24}{'size, KB':>11}{'networks':>10}")
    points = results.points(rows)
    for title, p in zip(results.titles(points), points):
        error = f"{p.error_pct:.2f}" + ("" if math.isnan(p.deviation) else f" ± {p.deviation:.2f}")
        measured = "-" if math.isnan(p.measured_s) else (f"{p.measured_s * 1e3:.4f} "
                                                         f"({p.measured_s / p.table_s - 1:+.1%})")
        size = "-" if math.isnan(p.file_bytes) else f"{p.file_bytes / 1e3:,.0f}"
        print(f"{title:<32}{error:>16}{p.table_s * 1e3:>16.4f}{measured:>24}{size:>11}{p.count:>10}")
    print(f"\n{folder / folder.name}.csv, {folder / folder.name}.png")


if __name__ == "__main__":
    cli.run(main)
