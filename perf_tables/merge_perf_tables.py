"""Merge several measurements of one network into one table.

    python perf_tables/merge_perf_tables.py OUT IN [IN ...] [--how median] [--sigma 1 --mode nearest]

Names mean perf_tables/NAME.pickle; paths work too. In a notebook:

    from perf_tables.merge_perf_tables import merge_perf_tables
    merge_perf_tables("res-40-2", ["pass-1", "pass-2", "pass-3"], how="median")
"""

import sys
from pathlib import Path
from typing import Any, Dict, Sequence

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from utils import cli, latency_table
from utils.errors import UserError
from utils.files import writable_folder


def merge_perf_tables(out: str, inputs: Sequence[str], *, how: str = "mean", sigma: float = 0.0,
                      mode: str = "nearest") -> Dict[str, np.ndarray]:
    """Merge the tables ``inputs`` into ``out`` (with its sidecar) and return it: {key: seconds[cin - 1, cout - 1]}.

    how: "mean" or "median"; sigma: Gaussian smoothing in channels, 0 for none; mode: SciPy's rule at the edges.
    Raises UserError naming the table that cannot be read or does not match the first.
    """
    paths, target = [latency_table.table_path(n) for n in inputs], latency_table.table_path(out)
    tables = [latency_table.read_arrays(p) for p in paths]
    if target.suffix != ".pickle":
        raise UserError(f"{target}: expected a name, or a path that ends in .pickle")
    merged = latency_table.merge(tables, [str(p) for p in paths], how=how, sigma=sigma, mode=mode)
    measurements = [latency_table.read_provenance(p) for p in paths]
    for key in ("operators", "num_images"):
        for path, note in zip(paths, measurements):
            if key in note and note[key] != measurements[0].get(key, note[key]):
                raise UserError(f"{path}: its note says other {key} than that of {paths[0]}; merge measurements of one "
                                "network only")
    provenance = {**{key: measurements[0][key] for key in ("operators", "num_images") if key in measurements[0]},
                  "merged": {"from": [p.name for p in paths], "how": how, "sigma": sigma,
                             "mode": mode if sigma else None},
                  "measurements": measurements}
    provenance.update(_in_common(measurements))
    writable_folder(target.parent)
    latency_table.write_table(target, merged, provenance)
    return merged


def _in_common(measurements: Sequence[Dict[str, Any]]) -> Dict[str, Any]:
    """What the notes agree on, and the means of what makes sums and predictions right, where all of them have it."""
    first, found = measurements[0], {}
    for key in ("network", "device", "runtime", "version", "threads"):
        if key in first and all(note.get(key) == first[key] for note in measurements):
            found[key] = first[key]
    corrections = [latency_table.correction_in(note) for note in measurements]
    if all(corrections):
        found["correction"] = {"factor": float(np.mean([c.factor for c in corrections])),
                               "overhead_s": float(np.mean([c.overhead_s for c in corrections]))}
    elif any(corrections):
        print("not all tables have a correction of their sums in their note: the merged one has none", file=sys.stderr)
    probes = [latency_table.probe_in(note) for note in measurements]
    if all(probes):
        found["probe"] = {"usual_s": float(np.mean(probes))}
    return found


def main() -> None:
    parser = cli.new_parser("Merge several measurements of one network into one table.")
    parser.add_argument("out", metavar="OUT", help="the table to write, perf_tables/OUT.pickle or a path")
    parser.add_argument("inputs", metavar="IN", nargs="+", help="tables to merge, names or paths")
    parser.add_argument("--how", choices=("mean", "median"), default="mean", help="over the tables, entry by entry")
    parser.add_argument("--sigma", type=cli.within(float, 0, 1000), default=0.0,
                        help="Gaussian smoothing, in channels; erases real steps")
    parser.add_argument("--mode", choices=("nearest", "reflect", "mirror", "constant", "wrap"), default="nearest",
                        help="smoothing at the edges of a table")
    args = parser.parse_args()
    merged = merge_perf_tables(args.out, args.inputs, how=args.how, sigma=args.sigma, mode=args.mode)
    print(f"{latency_table.table_path(args.out)}: {args.how} of {len(args.inputs)} tables, "
          f"{sum(a.size for a in merged.values()):,} entries")


if __name__ == "__main__":
    cli.run(main, resumable=False)
