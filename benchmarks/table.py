"""How fast a latency table is made, measured in one run on one machine.

    python benchmarks/table.py [--depth 40 --width 2.0] [--keras 12] [--direct 600] [--rounds 5] [--json]

A random sample of variants made with Keras and TensorFlow's converter, and with our own writer, in alternating
rounds: medians of files per second, and their ratio. Then the dense build, by the command that users type, and what
all that means for the whole network. Last, what a build would take on a Raspberry Pi 3B, from a table measured on one
(--pi_table): one visit of every entry takes at least the table's sum.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np

from model.network import Network, Table
from utils import cli, latency_table, tflite_files
from utils.errors import UserError
from utils.measuring import Grid


def get_parser() -> argparse.ArgumentParser:
    parser = cli.new_parser(__doc__.splitlines()[0])
    cli.add_network_flags(parser)
    parser.add_argument("--keras", type=cli.within(int, 1, 100_000), default=12, help="variants per round with Keras")
    parser.add_argument("--direct", type=cli.within(int, 1, 1_000_000), default=600, help="and with our writer")
    parser.add_argument("--rounds", type=cli.within(int, 1, 1000), default=5, help="rounds, for the medians")
    parser.add_argument("--num_measures", type=cli.within(int, 1, 1000), default=11, help="runs per entry of the build")
    parser.add_argument("--pi_table", help="a table measured on a Raspberry Pi, for the projection")
    parser.add_argument("--no_build", action="store_true", help="leave the dense build out")
    parser.add_argument("--seed", type=cli.within(int, 0, 2 ** 32 - 1), default=0, help="of the sample")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def per_second(make: Callable[[Table, int, int, int], bytes], entries: List[Tuple[Table, int, int]]) -> float:
    began = time.perf_counter()
    for table, cin, cout in entries:
        make(table, cin, cout, 1)
    return len(entries) / (time.perf_counter() - began)


def writers(network: Network, args: argparse.Namespace) -> Dict[str, Any]:
    """Variants per second of both ways, a median over rounds that alternate."""
    grid, random = Grid(network), np.random.default_rng(args.seed)
    ways = {"keras": tflite_files.keras_bytes, "direct": tflite_files.direct_bytes}
    rates: Dict[str, List[float]] = {name: [] for name in ways}
    for make in ways.values():
        make(*grid.entry(0), 1)  # imports, and what TensorFlow does but once
    for number in range(args.rounds):
        for name, make in ways.items():
            chosen = random.integers(len(grid), size=getattr(args, name))
            rates[name].append(per_second(make, [grid.entry(int(i)) for i in chosen]))
        print(f"round {number + 1} of {args.rounds}: {rates['keras'][-1]:.2f} and {rates['direct'][-1]:.0f} variants per "
              "second", file=sys.stderr, flush=True)
    found: Dict[str, Any] = {f"{name}_per_s": statistics.median(values) for name, values in rates.items()}
    found["ratio"] = found["direct_per_s"] / found["keras_per_s"]
    found["ratio_by_round"] = sorted(d / k for d, k in zip(rates["direct"], rates["keras"]))
    found["all_with_keras_h"] = len(grid) / found["keras_per_s"] / 3600
    return found


def build(args: argparse.Namespace) -> Dict[str, Any]:
    """The dense build, in a folder of its own, as users run it."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        found = subprocess.run([sys.executable, str(ROOT / "compute_table.py"), f"--net={args.net}", f"--depth={args.depth}",
                        f"--width={args.width}", "--mode=build", "--save_file=dense",
                        f"--num_measures={args.num_measures}"], cwd=folder, stdout=sys.stderr)
        if found.returncode:
            raise UserError("the dense build did not end well; its last line says why")
        seconds = time.perf_counter() - began
        note = latency_table.read_provenance(Path(folder) / "perf_tables/dense.pickle")
    return {"build_s": seconds, "entries": note["entries"], "visits": note["visits"],
            "ms_per_visit": seconds / note["visits"] * 1e3}


def on_a_pi(args: argparse.Namespace, network: Network) -> Dict[str, Any]:
    """What the runs alone take on the Pi, for the dense build and for a sample of 5%."""
    arrays = latency_table.read_measured(latency_table.table_path(args.pi_table), network)
    runs = -(-args.num_measures // 2) + 1  # of a visit, with the one to warm up
    pass_s = float(sum(a.sum() for a in arrays.values()))
    return {"pi_one_run_of_each_entry_s": pass_s, "pi_entries": sum(a.size for a in arrays.values()),
            "pi_dense_h": 2 * runs * pass_s / 3600, "pi_sample_5_percent_h": 2 * runs * pass_s * 0.05 / 3600}


def main() -> None:
    args = get_parser().parse_args()
    network = cli.describe_or_fail(net=args.net, depth=args.depth, width=args.width)
    projection = on_a_pi(args, network) if args.pi_table else {}
    found = writers(network, args)
    if not args.no_build:
        found.update(build(args))
    found.update(projection)
    if args.json:
        print(json.dumps(found, indent=1))
        return
    print(f"made: {found['keras_per_s']:.2f} variants per second with Keras, {found['direct_per_s']:.0f} directly: "
          f"{found['ratio']:.0f} times as many; all with Keras would take {found['all_with_keras_h']:.1f} h")
    if "build_s" in found:
        print(f"dense build: {found['entries']:,} entries in {found['build_s']:.0f} s, {found['visits']:,} visits of "
              f"{found['ms_per_visit']:.2f} ms")
    if args.pi_table:
        print(f"Raspberry Pi: one run of all {found['pi_entries']:,} entries takes {found['pi_one_run_of_each_entry_s']:.1f} "
              f"s; the runs of a dense build {found['pi_dense_h']:.2f} h, of a sample of 5% about "
              f"{found['pi_sample_5_percent_h'] * 60:.1f} minutes; making and loading the models comes on top")


if __name__ == "__main__":
    cli.run(main, resumable=False)
