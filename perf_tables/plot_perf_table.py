"""Draw latency tables: all kinds of layers in one picture, several tables over one another, and how much they differ.

    python perf_tables/plot_perf_table.py NAME [NAME ...] [--output FILE.png]

A NAME means perf_tables/NAME.pickle; a path works, too. Without --output the script writes the picture beside the first
table, as NAME.png.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from utils.common.signals import answer_at_once
    answer_at_once()

import argparse

import numpy as np

from utils.common import cli
from utils.common.errors import UserError
from utils.common.figure import as_the_result
from utils.common.files import writable_folder
from utils.latency.plots import plot_tables
from utils.latency.table_files import read_arrays, table_path


def get_parser() -> argparse.ArgumentParser:
    parser = cli.new_parser("Draw latency tables: per kind of layer a heat map and the latency along output channels.")
    parser.add_argument("names", metavar="NAME", nargs="+", help="tables, names or paths; the first has the heat maps")
    parser.add_argument("--output", help="the picture (default: beside the first table)")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    paths = [table_path(name) for name in args.names]
    tables = [read_arrays(path) for path in paths]
    shared = [key for key in tables[0] if all(key in t and t[key].shape == tables[0][key].shape for t in tables)]
    if not shared:
        raise UserError(f"{paths[-1]}: has no kind of layer in common with {paths[0]}, of the same size; draw "
                        "them separately")
    output = Path(args.output) if args.output else paths[0].with_suffix(".png")
    if output.suffix != ".png":
        raise UserError(f"--output={args.output}: expected a file that ends in .png")
    writable_folder(output.parent)
    stems = [path.stem for path in paths]
    labels = stems if len(set(stems)) == len(stems) else [f"{i}: {path}" for i, path in enumerate(paths, 1)]
    with as_the_result():
        plot_tables(output, {label: {key: t[key] for key in shared} for label, t in zip(labels, tables)})
    for path, table in zip(paths[1:], tables[1:]):
        apart = np.concatenate([np.abs(table[key] / tables[0][key] - 1).ravel() for key in shared])
        print(f"{path.stem} against {paths[0].stem}: {np.median(apart):.2%} apart (median), "
              f"{np.quantile(apart, 0.95):.2%} (95th percentile) over {len(apart):,} entries")
    left = sorted({key for t in tables for key in t} - set(shared))
    print(f"{output}: {len(shared)} kinds of layers" + (f"; not in all tables: {', '.join(left)}" if left else ""))


if __name__ == "__main__":
    cli.run(main, resumable=False)
