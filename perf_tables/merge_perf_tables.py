"""Merge several measurements of one network into one table.

    python perf_tables/merge_perf_tables.py OUT IN [IN ...] [--how median] [--sigma 1 --mode nearest] [--force]

A NAME means perf_tables/NAME.pickle; a path works, too. In a notebook:

    from perf_tables.merge_perf_tables import merge_perf_tables
    merge_perf_tables("res-40-2", ["pass-1", "pass-2", "pass-3"], how="median")
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from utils.common.signals import answer_at_once
    answer_at_once()

import argparse
from collections.abc import Sequence
from typing import Any, Optional

import numpy as np

from model.network import Network
from utils.common import cli
from utils.common.errors import UserError
from utils.common.files import writable_folder
from utils.common.lock import locked
from utils.common.output import remark
from utils.latency import told
from utils.latency.entries import Entries
from utils.latency.merging import merged_large, merged_note, merged_sampled, merged_table
from utils.latency.note import Note, network_in
from utils.latency.table_files import (
    LatencyTable,
    is_large,
    read_arrays,
    read_measured,
    read_note,
    table_path,
    write_large,
    write_pair,
)


def merge_perf_tables(out: str, inputs: Sequence[str], *, how: str = "mean", sigma: float = 0.0,
                      mode: str = "nearest", force: bool = False) -> dict[str, np.ndarray]:
    """Merge the tables ``inputs`` into ``out`` (with its note) and return it: {key: seconds[cin - 1, cout - 1]}.

    how: "mean" or "median"; sigma: Gaussian smoothing in channels, 0 for none; mode: SciPy's rule at the edges; force:
    replace a table that was measured, not merged. Raises UserError naming the table that cannot be read, does not match
    the first, or may not be replaced.
    """
    paths, target = [table_path(n) for n in inputs], table_path(out)
    measured, notes = zip(*map(read_measured, paths))
    if target.suffix != ".pickle":
        raise UserError(f"{target}: expected a name, or a path that ends in .pickle")
    if target.exists() and not force and "merged" not in read_note(target):
        raise UserError(f"{target}: a table that was not merged stands there. The first name is that of the new table: "
                        "choose another, or add --force to replace it")
    few = [path for path, table in zip(paths, measured) if is_large(table)]
    if few and (len(few) < len(paths) or sigma):
        other = next((path for path in paths if path not in few), None)
        raise UserError(f"{few[0]}: a table of few entries, which has no neighbours to smooth over; leave --sigma out"
                        if other is None else f"{few[0]}: a table of few entries, but {other} has all; merge tables of "
                        "one kind")
    note = merged_note(notes, paths, {
        "from": [p.name for p in paths], "how": how, "sigma": sigma, "mode": mode if sigma else None})
    if few:
        merged = merged_large(measured, [str(p) for p in paths], how=how)
    else:
        merged, sampling = _of_arrays(paths, measured, notes, network_in(note), how=how, sigma=sigma, mode=mode)
        note.update(sampling)
    writable_folder(target.parent)
    with locked(target.with_suffix(".journal")):  # as a build of that name does
        (write_large if few else write_pair)(target, merged, note)  # type: ignore[arg-type]
    return read_arrays(target)


def _of_arrays(paths: Sequence[Path], tables: Sequence[LatencyTable], notes: Sequence[Note],
               network: Optional[Network], *, how: str, sigma: float, mode: str) -> tuple[LatencyTable, dict[str, Any]]:
    """The merged table, and what its note says of the entries that were measured, where not all were."""
    names, sampled = [str(p) for p in paths], [p for p, note in zip(paths, notes) if told.is_sampled(note)]
    if sampled and network and not sigma and told.all_tell(notes, network, tables[0]):
        merged, measured = merged_sampled(tables, [told.masks_of(p, n, network) for p, n in zip(paths, notes)],
                                          names, how=how)
        if all(mask.all() for mask in measured.values()):
            return merged, {}
        entries = Entries(network)
        return merged, {"sampling": told.sampled(entries, entries.where(measured))}
    if sampled:
        remark(f"note: {sampled[0]}: not all entries were measured; its estimates count as if they were")
    merged = merged_table(tables, names, how=how, sigma=sigma, mode=mode)
    return merged, {"sampling": {}} if sampled or sigma else {}  # nothing of it can be reused as measured


def get_parser() -> argparse.ArgumentParser:
    parser = cli.new_parser("Merge several measurements of one network into one table.")
    parser.add_argument("out", metavar="OUT", help="the table to write, perf_tables/OUT.pickle or a path")
    parser.add_argument("inputs", metavar="IN", nargs="+", help="tables to merge, names or paths")
    parser.add_argument("--how", choices=("mean", "median"), default="mean", help="over the tables, entry by entry")
    parser.add_argument("--sigma", type=cli.within(float, 0, 1000), default=0.0,
                        help="Gaussian smoothing, in channels; erases real steps")
    parser.add_argument("--mode", choices=("nearest", "reflect", "mirror", "constant", "wrap"), default="nearest",
                        help="smoothing at the edges of a table")
    parser.add_argument("--force", action="store_true", help="replace a table that was measured, not merged")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    merged = merge_perf_tables(args.out, args.inputs, how=args.how, sigma=args.sigma, mode=args.mode,
                               force=args.force)
    print(f"{table_path(args.out)}: {args.how} of {len(args.inputs)} tables, "
          f"{sum(a.size for a in merged.values()):,} entries")


if __name__ == "__main__":
    cli.run(main, resumable=False)
