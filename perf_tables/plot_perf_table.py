"""Draw latency tables, and where the latency of a network goes.

    python perf_tables/plot_perf_table.py NAME [NAME ...] [--operator PATTERN ...] [--output FILE.png]
    python perf_tables/plot_perf_table.py NAME --of=CHECKPOINT [--output FILE.png]

A NAME means perf_tables/NAME.pickle; a path works, too. Several tables are drawn over one another, and the script
prints how much they differ. Of a table with many operators it draws those that cost most; --operator chooses others.
Without --output the picture is beside the first table, as NAME.png.

With --of, the picture shows the latency of every layer before and after pruning, as NAME-of-CHECKPOINT.png. CHECKPOINT
means checkpoints/CHECKPOINT.t7, which needs torch, or a path; the path of a nbr_channels/*.pickle needs none.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from utils.common.signals import answer_at_once
    answer_at_once()

import argparse
from collections.abc import Sequence

import numpy as np

from model.network import Network, Widths
from utils.common import cli
from utils.common.channels import read_channels
from utils.common.errors import UserError
from utils.common.figure import as_the_result
from utils.common.files import locate, writable_folder
from utils.latency import shares
from utils.latency.layer_plot import plot_layers
from utils.latency.note import Note, network_in
from utils.latency.table_files import note_path, read_arrays, read_note, read_pair, table_path
from utils.latency.table_plot import panel_of, plot_tables
from utils.latency.tables import missing_joins, read_table

MANY = 16  # operators: a table of more is not drawn whole,
DRAWN = 12  # but as many, those that cost most


def get_parser() -> argparse.ArgumentParser:
    parser = cli.new_parser(__doc__)
    parser.add_argument("names", metavar="NAME", nargs="+", help="tables, names or paths; the first has the heat maps")
    parser.add_argument("--operator", metavar="PATTERN", nargs="+", default=[],
                        help="keys of the operators to draw; * stands for anything (default: all, or of more than "
                             f"{MANY} the {DRAWN} that cost most)")
    parser.add_argument("--of", metavar="CHECKPOINT",
                        help="draw the latency of this network's layers before and after pruning: "
                             "checkpoints/CHECKPOINT.t7 or a path, also of a nbr_channels/*.pickle")
    parser.add_argument("--output", help="the picture (default: beside the first table)")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    paths = [table_path(name) for name in args.names]
    if args.of and (paths[1:] or args.operator):
        raise UserError("--of draws the layers of one table: expected one NAME and no --operator")
    of = None
    if args.of:
        of = Path(args.of) if args.of.endswith(".pickle") else locate(args.of, "checkpoints", ".t7")
    output = Path(args.output) if args.output else paths[0].with_name(
        f"{paths[0].stem}{f'-of-{of.stem}' if of else ''}.png")
    if output.suffix != ".png":
        raise UserError(f"--output={args.output}: expected a file that ends in .png")
    if of:
        draw_layers(paths[0], of, output)
    else:
        draw_tables(paths, args.operator, output)


def draw_tables(paths: Sequence[Path], patterns: Sequence[str], output: Path) -> None:
    """Draw the operators that all tables have, or some of them, and report what was drawn. Raises UserError."""
    first, note = read_pair(paths[0]) if note_path(paths[0]).exists() else (read_arrays(paths[0]), {})
    tables = [first, *map(read_arrays, paths[1:])]
    shared = [key for key in first if all(key in t and t[key].shape == first[key].shape for t in tables)]
    if not shared:
        raise UserError(f"{paths[-1]}: has no kind of layer in common with {paths[0]}, of the same size; draw "
                        "them separately")
    costs = shares.costs(first, note)
    keys, about = shares.matching(shared, patterns) if patterns else shared, ""
    if not patterns and len(shared) > MANY:
        keys = shares.costliest({key: costs.seconds[key] for key in shared}, DRAWN)
        about = f"; the {len(keys)} of {len(shared)} operators that cost most"
    known = costs.network.tables if costs.network else {}
    panels = [panel_of([t[key] for t in tables], key, known.get(key), costs.words(key)) for key in keys]
    stems = [path.stem for path in paths]
    labels = stems if len(set(stems)) == len(stems) else [f"{i}: {path}" for i, path in enumerate(paths, 1)]
    writable_folder(output.parent)
    with as_the_result():
        plot_tables(output, labels, panels, about)
    for path, table in zip(paths[1:], tables[1:]):
        apart = np.concatenate([np.abs(table[key] / first[key] - 1).ravel() for key in shared])
        print(f"{path.stem} against {paths[0].stem}: {np.median(apart):.2%} apart (median), "
              f"{np.quantile(apart, 0.95):.2%} (95th percentile) over {len(apart):,} entries")
    report(output, keys, shared, costs)
    left = sorted({key for t in tables for key in t} - set(shared))
    if left:
        print(f"not in all tables: {', '.join(left)}")


def report(output: Path, keys: Sequence[str], shared: Sequence[str], costs: shares.Costs) -> None:
    """Print what was drawn, and what each operator costs where some were left out."""
    if len(keys) == len(shared):
        print(f"{output}: {len(keys)} kinds of layers")
        return
    words = f", {costs.share(keys):.1%} of the unpruned network's latency" if costs.network else ""
    print(f"{output}: {len(keys)} of {len(shared)} kinds of layers{words}")
    for key in keys:
        print(f"  {costs.words(key):>25}  {key}")
    print(f"{len(shared) - len(keys)} are left out; --operator=PATTERN chooses them, * stands for anything")


def draw_layers(path: Path, of: Path, output: Path) -> None:
    """Draw the layers of a network, before and after pruning, by this table. Raises UserError."""
    note = read_note(path)
    network, widths = channels_of(of, path, note) if of.suffix == ".pickle" else checkpoint_of(of)
    table = read_table(path, network)
    if missing_joins(network, table):
        print(f"note: {path}: has no {', '.join(missing_joins(network, table))}; additions count as free",
              file=sys.stderr)
    times = shares.layer_times(network, widths, table)
    before_s, after_s = shares.total_s(times)
    pruned = widths != network.full_widths
    words = f"{before_s * 1e3:.4g} ms per inference" + (
        f" unpruned, {after_s * 1e3:.4g} ms pruned ({after_s / before_s - 1:+.1%})" if pruned else ", unpruned")
    writable_folder(output.parent)
    with as_the_result():
        plot_layers(output, times, f"{of.stem}, by the table {path.stem}: {words}", pruned=pruned)
    gone = sum(t.after_s is None for t in times)
    print(f"{output}: {words}; {len(times)} layers" + (f", {gone} of them removed" if gone else ""))


def channels_of(of: Path, path: Path, note: Note) -> tuple[Network, Widths]:
    """The table's network, with the channels of a file. Raises UserError."""
    network = network_in(note)
    if network is None:
        raise UserError(f"{note_path(path)}: does not tell the table's network, which {of} needs; give --of a "
                        "checkpoint")
    return network, read_channels(of, network)


def checkpoint_of(of: Path) -> tuple[Network, Widths]:
    """The network in a checkpoint, with its channels. Raises UserError."""
    from utils.learning import checkpoint  # loads torch, which nothing else here needs
    model = checkpoint.build(checkpoint.load(of), of)
    return model.network, model.widths


if __name__ == "__main__":
    cli.run(main, resumable=False)
