"""How long a search waits for prices, beside plain sums over all layers, in one run on one machine.

    python benchmarks/pricing.py [--net res --depth 40 --width 2.0] [--part 0.02] [--rounds 5] [--plain_knapsack]
                                 [--json]

The latency table is made up, dense, and grows in steps of 16 channels. A round times one total, the proposals of a
first step that has to gain --part of the latency, and the knapsack for 40% less, of random worth. Totals and proposals
are also timed by plain sums, in the same round, and have to be the same. The knapsack by plain sums takes minutes of a
large network, so it runs once, and only if asked for. The results are medians, and medians of the rounds' ratios.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Callable

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np

from model.network import Network, Table
from model.operators import pair
from utils.common import cli
from utils.common.errors import UserError
from utils.common.provenance import made_by
from utils.latency import tables
from utils.latency.table_files import LatencyTable
from utils.search import baselines, netadapt
from utils.search.costs import Cost
from utils.search.pricing import LayerSum
from utils.search.space import Space

STEP, START_S, S_PER_MAC = 16, 3e-6, 1e-11  # of the made-up table: channels, and seconds of a layer
BUDGET = 0.6  # of the latency, for the knapsack
TOTALS = 20  # that are timed at once


def get_parser() -> argparse.ArgumentParser:
    parser = cli.new_parser(__doc__)
    cli.add_network_flags(parser)
    parser.add_argument("--part", type=cli.fraction, default=0.02, help="part of the latency that the step has to gain")
    parser.add_argument("--rounds", type=cli.within(int, 1, 1000), default=5, help="rounds, for the medians")
    parser.add_argument("--plain_knapsack", action="store_true", help="also run the knapsack by plain sums, once")
    parser.add_argument("--seed", type=cli.within(int, 0, 2 ** 32 - 1), default=0, help="seed of the worth")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def made_up(table: Table) -> np.ndarray:
    """Seconds of a layer at every width, in steps of STEP outputs."""
    (height, width), (rows, columns) = table.sides, pair(table.node.kernel)
    reads = np.arange(1, table.rows + 1)[:, np.newaxis] * (table.step_in if table.free else 1)
    writes = -(-np.arange(1, table.columns + 1) * table.step_out // STEP) * STEP
    return START_S + S_PER_MAC * height * width * rows * columns * reads * writes


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    found = action()
    return time.perf_counter() - began, found


def quick_sum(network: Network, table: LatencyTable) -> Cost:
    return Cost(LayerSum(network, tables.prices(network, table)))


def one_round(network: Network, table: LatencyTable, plain: Cost, part: float,
              saliency: baselines.Saliency) -> dict[str, tuple[float, ...]]:
    """Seconds of every job: quickly, and, but for the knapsack, plainly. Raises UserError where the two differ."""
    space, full = Space(network), network.full_widths
    build_s, cost = timed(lambda: quick_sum(network, table))  # anew, so that it knows no price yet
    found: dict[str, tuple[float, ...]] = {"build": (build_s,)}
    jobs: dict[str, Callable[[Cost], Any]] = {
        "proposals": lambda cost: netadapt.proposals(space, full, cost, part * cost(full), False),
        "total": lambda cost: [cost(full) for _ in range(TOTALS)]}
    for name, job in jobs.items():
        (quick_s, ours), (plain_s, theirs) = timed(partial(job, cost)), timed(partial(job, plain))
        if ours != theirs:
            raise UserError(f"{network.short_name}: {name}: quick and plain sums differ")
        count = len(ours) if name == "total" else 1
        found[name] = quick_s / count, plain_s / count
    cost = quick_sum(network, table)
    found["knapsack"] = timed(lambda: baselines.knapsack(space, full, cost, BUDGET * cost(full), saliency))[:1]
    return found


def report(network: Network, rounds: Sequence[dict[str, tuple[float, ...]]]) -> dict[str, Any]:
    found: dict[str, Any] = {"groups": sum(g.prunable for g in network.groups), "layers": len(network.priced),
                             "widths": sum(g.width - 1 for g in network.groups if g.prunable)}
    for name in rounds[0]:
        seconds = [r[name] for r in rounds]
        found[name] = {"quick_s": statistics.median(s[0] for s in seconds)}
        if len(seconds[0]) > 1:
            found[name].update(plain_s=statistics.median(s[1] for s in seconds),
                               ratio=statistics.median(s[1] / s[0] for s in seconds))
    return found


def main() -> None:
    args = get_parser().parse_args()
    network = cli.describe_or_fail(net=args.net, depth=args.depth, width=args.width)
    table = {key: made_up(spec) for key, spec in network.tables.items()}
    plain = Cost(partial(tables.latency_s, network, table=table))
    random = np.random.default_rng(args.seed)
    saliency = {g.name: random.exponential(size=g.width).tolist() for g in network.groups if g.prunable}
    rounds = []
    for number in range(1, args.rounds + 1):
        rounds.append(one_round(network, table, plain, args.part, saliency))
        print(f"round {number} of {args.rounds}", file=sys.stderr, flush=True)
    found = report(network, rounds)
    if args.plain_knapsack:
        taken = timed(lambda: baselines.knapsack(Space(network), network.full_widths, plain,
                                                 BUDGET * plain(network.full_widths), saliency))[0]
        found["knapsack"].update(plain_s=taken, ratio=taken / found["knapsack"]["quick_s"])
    if args.json:
        print(json.dumps({"made_by": made_by(), "network": network.short_name, "part": args.part,
                          "rounds": args.rounds, **found}))
        return
    print(f"{network.short_name}: {found['groups']} groups, {found['widths']:,} narrower widths, {found['layers']} "
          "layers with a price")
    for name in rounds[0]:
        row = found[name]
        print(f"{name:<12}{row['quick_s'] * 1e3:12.3f} ms" + (
            f"{row['plain_s'] * 1e3:14.3f} ms by plain sums, ratio {row['ratio']:.0f}" if "ratio" in row else ""))


if __name__ == "__main__":
    cli.run(main, resumable=False)
