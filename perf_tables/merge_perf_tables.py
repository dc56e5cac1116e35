"""Merge several measurements of one network into one table.

    python perf_tables/merge_perf_tables.py OUT IN [IN ...] [--how median] [--sigma 1 --mode nearest]

A NAME means perf_tables/NAME.pickle; a path works, too. In a notebook:

    from perf_tables.merge_perf_tables import merge_perf_tables
    merge_perf_tables("res-40-2", ["pass-1", "pass-2", "pass-3"], how="median")
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from utils.common import cli
from utils.common.errors import UserError
from utils.common.files import writable_folder
from utils.latency import tables
from utils.latency.merging import merged_note, merged_table
from utils.latency.note import read_note


def merge_perf_tables(out: str, inputs: Sequence[str], *, how: str = "mean", sigma: float = 0.0,
                      mode: str = "nearest") -> dict[str, np.ndarray]:
    """Merge the tables ``inputs`` into ``out`` (with its note) and return it: {key: seconds[cin - 1, cout - 1]}.

    how: "mean" or "median"; sigma: Gaussian smoothing in channels, 0 for none; mode: SciPy's rule at the edges.
    Raises UserError naming the table that cannot be read or does not match the first.
    """
    paths, target = [tables.table_path(n) for n in inputs], tables.table_path(out)
    arrays = [tables.read_arrays(p) for p in paths]
    if target.suffix != ".pickle":
        raise UserError(f"{target}: expected a name, or a path that ends in .pickle")
    merged = merged_table(arrays, [str(p) for p in paths], how=how, sigma=sigma, mode=mode)
    note = merged_note([read_note(p) for p in paths], paths, {
        "from": [p.name for p in paths], "how": how, "sigma": sigma, "mode": mode if sigma else None})
    writable_folder(target.parent)
    tables.write_table(target, merged, note)
    return merged


def get_parser() -> argparse.ArgumentParser:
    parser = cli.new_parser("Merge several measurements of one network into one table.")
    parser.add_argument("out", metavar="OUT", help="the table to write, perf_tables/OUT.pickle or a path")
    parser.add_argument("inputs", metavar="IN", nargs="+", help="tables to merge, names or paths")
    parser.add_argument("--how", choices=("mean", "median"), default="mean", help="over the tables, entry by entry")
    parser.add_argument("--sigma", type=cli.within(float, 0, 1000), default=0.0,
                        help="Gaussian smoothing, in channels; erases real steps")
    parser.add_argument("--mode", choices=("nearest", "reflect", "mirror", "constant", "wrap"), default="nearest",
                        help="smoothing at the edges of a table")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    merged = merge_perf_tables(args.out, args.inputs, how=args.how, sigma=args.sigma, mode=args.mode)
    print(f"{tables.table_path(args.out)}: {args.how} of {len(args.inputs)} tables, "
          f"{sum(a.size for a in merged.values()):,} entries")


if __name__ == "__main__":
    cli.run(main, resumable=False)
