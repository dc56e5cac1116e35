"""How fast a dense latency table is made, measured in one run on one machine.

    python benchmarks/writer.py [--depth 40 --width 2.0] [--keras 12] [--direct 600] [--rounds 5] [--json]

Alternating rounds make random variants with Keras and TensorFlow's converter, and with our own writer. The results are
medians of files per second, their ratio, and the time of Keras for all entries. Then the dense build runs, by the
command that users type. Last, a table measured on a Raspberry Pi 3B (--pi_table) gives the time of a build there: one
visit of every entry takes at least the table's sum.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np

from model.network import Network, Table
from utils.common import cli
from utils.common.errors import UserError
from utils.common.provenance import made_by
from utils.latency import tables, variants, writing
from utils.latency.entries import Entries, Entry
from utils.latency.table_files import read_note, table_path

Make = Callable[[int, Table, int, int], bytes]  # a number of images, a table, cin, cout


def get_parser() -> argparse.ArgumentParser:
    parser = cli.new_parser(__doc__)
    cli.add_network_flags(parser)
    parser.add_argument("--keras", type=cli.within(int, 1, 100_000), default=12, help="variants per round with Keras")
    parser.add_argument("--direct", type=cli.within(int, 1, 1_000_000), default=600,
                        help="variants per round with our writer")
    parser.add_argument("--rounds", type=cli.within(int, 1, 1000), default=5, help="rounds, for the medians")
    parser.add_argument("--num_measures", type=cli.within(int, 1, 1000), default=11, help="runs per entry of the build")
    parser.add_argument("--pi_table", help="a table measured on a Raspberry Pi, for the projection")
    parser.add_argument("--no_build", action="store_true", help="leave the dense build out")
    parser.add_argument("--seed", type=cli.within(int, 0, 2 ** 32 - 1), default=0, help="seed of the sample")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def per_second(make: Make, chosen: list[Entry]) -> float:
    began = time.perf_counter()
    for table, cin, cout in chosen:
        make(1, table, cin, cout)
    return len(chosen) / (time.perf_counter() - began)


def writers(network: Network, counts: Mapping[str, int], rounds: int, seed: int) -> dict[str, Any]:
    """Variants per second by Keras and by our writer: medians of alternating rounds; counts: {way: variants}."""
    entries, random = Entries(network), np.random.default_rng(seed)
    ways: dict[str, Make] = {"keras": variants.keras_bytes, "direct": writing.variant}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for make in ways.values():
        make(1, *entries[0])  # to import, and for what TensorFlow does only once
    for number in range(rounds):
        for name, make in ways.items():
            chosen = random.integers(len(entries), size=counts[name])
            rates[name].append(per_second(make, [entries[int(i)] for i in chosen]))
        print(f"round {number + 1} of {rounds}: {rates['keras'][-1]:.2f} and {rates['direct'][-1]:.0f} variants per "
              "second", file=sys.stderr, flush=True)
    found: dict[str, Any] = {f"{name}_per_s": statistics.median(values) for name, values in rates.items()}
    found["ratio"] = found["direct_per_s"] / found["keras_per_s"]
    found["ratio_by_round"] = sorted(d / k for d, k in zip(rates["direct"], rates["keras"]))
    found["all_with_keras_h"] = len(entries) / found["keras_per_s"] / 3600
    return found


def build(network_flags: list[str], num_measures: int) -> dict[str, Any]:
    """Time the dense build in a new folder, as users run it."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        found = subprocess.run([sys.executable, str(ROOT / "compute_table.py"), *network_flags, "--mode=build",
                                "--save_file=dense", f"--num_measures={num_measures}"], cwd=folder, stdout=sys.stderr)
        if found.returncode:
            raise UserError("the dense build failed; its last line has the reason")
        seconds = time.perf_counter() - began
        note = read_note(Path(folder) / "perf_tables/dense.pickle")
    return {"build_s": seconds, "entries": note["entries"], "visits": note["visits"],
            "ms_per_visit": seconds / note["visits"] * 1e3}


def on_a_pi(network: Network, pi_table: str, num_measures: int) -> dict[str, Any]:
    """The time of the runs alone on the Pi, for the dense build and for a sample of 5%."""
    arrays, _ = tables.read_measured(table_path(pi_table), network)
    runs = -(-num_measures // 2) + 1  # of a visit, with the one to warm up
    pass_s = float(sum(a.sum() for a in arrays.values()))
    return {"pi_one_run_of_each_entry_s": pass_s, "pi_entries": sum(a.size for a in arrays.values()),
            "pi_dense_h": 2 * runs * pass_s / 3600, "pi_sample_5_percent_h": 2 * runs * pass_s * 0.05 / 3600}


def main() -> None:
    args = get_parser().parse_args()
    network = cli.describe_or_fail(net=args.net, depth=args.depth, width=args.width)
    projection = on_a_pi(network, args.pi_table, args.num_measures) if args.pi_table else {}
    found = writers(network, {"keras": args.keras, "direct": args.direct}, args.rounds, args.seed)
    if not args.no_build:
        found.update(build([f"--{k}={network.arguments[k]}" for k in ("net", "depth", "width")], args.num_measures))
    found.update(projection)
    if args.json:
        print(json.dumps({"made_by": made_by(), **found}, indent=1))
        return
    print(f"made: {found['keras_per_s']:.2f} variants per second with Keras, {found['direct_per_s']:.0f} directly: "
          f"{found['ratio']:.0f} times as many; all with Keras would take {found['all_with_keras_h']:.1f} h")
    if "build_s" in found:
        print(f"dense build: {found['entries']:,} entries in {found['build_s']:.0f} s, {found['visits']:,} visits of "
              f"{found['ms_per_visit']:.2f} ms")
    if args.pi_table:
        print(f"Raspberry Pi: one run of all {found['pi_entries']:,} entries takes "
              f"{found['pi_one_run_of_each_entry_s']:.1f} s; the runs of a dense build {found['pi_dense_h']:.2f} h, of "
              f"a sample of 5% about {found['pi_sample_5_percent_h'] * 60:.1f} minutes; making and loading the models "
              "comes on top")


if __name__ == "__main__":
    cli.run(main, resumable=False)
