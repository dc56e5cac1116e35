"""Prune a trained network until it meets a latency, by trading channels, by NetAdapt or by a simpler method.

    python prune.py --save_file='res-40-2-pruned' --pruning_fact=0.4 --base_model='res-40-2' --perf_table='res-40-2'
    python prune.py --plan --pruning_fact=0.4 --perf_table='res-40-2' [--json]     # only print what groups could gain
    python prune.py --plan --method=uniform --pruning_fact=0.4 --perf_table='res-40-2'     # or the widths of a method

The script reads the network checkpoints/BASE_MODEL.t7 and the latency table perf_tables/PERF_TABLE.pickle. It writes:

    checkpoints/SAVE_FILE.t7          the pruned network
    nbr_channels/SAVE_FILE.pickle     the channels left in every convolution, to retrain the network from scratch
    history/SAVE_FILE.jsonl           every network that the search tried, and why it got no further
    history/SAVE_FILE.png             a picture of the search

After an interruption, the same command with --resume continues.
"""

if __name__ == "__main__":
    from utils.common.signals import answer_at_once
    answer_at_once()

import argparse
import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.network import Network, Widths
from utils.common import cli
from utils.common.errors import UserError
from utils.common.files import locate, save_name
from utils.common.fingerprint import sha256_of
from utils.common.workers import outlive_ray
from utils.latency import tables
from utils.latency.note import origin_in
from utils.latency.table_files import read_pair, table_path
from utils.learning.settings import Compute, Data, Recipe
from utils.pruning.settings import SCORES, Prices, Pruning
from utils.search import baselines, defaults, halving, netadapt, pricing, trade
from utils.search.costs import COUNTS, LATENCY, Cost, Unit
from utils.search.netadapt import Settings
from utils.search.space import Space

if TYPE_CHECKING:  # these import torch, which main loads only where it is needed
    from utils.pruning.assembly import Pruned
    from utils.pruning.run_files import RunFiles


Flags = Mapping[str, Any]  # of the command line, by name

# left out of a run's flags at these values: older runs do not have them
NEWER_FLAGS = {"keep": ("",), "multiple_of": (1,), "floor": (0.0,), "knapsack_steps": (1,), "scratch_epochs": (None,),
               "scratch_rate": (0.1,)}


def get_parser() -> argparse.ArgumentParser:
    parser = cli.new_parser(__doc__)
    parser.add_argument("--save_file",
                        help="name of the results, in checkpoints/, nbr_channels/ and history/; needed unless --plan")
    parser.add_argument("--base_model",
                        help="trained network, checkpoints/BASE_MODEL.t7 or a path; needed unless --plan")
    parser.add_argument("--perf_table", required=True,
                        help="latency table, perf_tables/PERF_TABLE.pickle or a path; macs or params: prune by that "
                             "count, without a table")
    parser.add_argument("--pruning_fact", type=cli.fraction, required=True, help="part of the latency to remove")
    cli.add_network_flags(parser, defaults=False)
    add_method_flags(parser)
    add_search_flags(parser)
    add_training_flags(parser)
    cli.add_data_flags(parser, defaults=False)
    cli.add_run_flags(parser, resume="go on after an interruption; repeats only unfinished candidates")
    group = parser.add_argument_group("workers")
    group.add_argument("--jobs", type=cli.within(int, 1, 4096), default=1,
                       help="processes that make candidates; with several GPUs, each has its own")
    group.add_argument("--threads", type=cli.within(int, 1, 4096),
                       help="threads of each process; the result depends on them (default: the machine's, divided "
                            "among the processes)")
    group.add_argument("--backend", choices=("local", "ray"), default="local",
                       help="ray: run the --jobs processes on the Ray cluster that RAY_ADDRESS names, or else on that "
                            "of this machine")
    group = parser.add_argument_group("look before you prune")
    group.add_argument("--plan", action="store_true",
                       help="print the total latency and the proposals of NetAdapt's first step, or the widths that "
                            "the --method chooses or begins with, and write nothing; knapsack needs images and has no "
                            "plan")
    group.add_argument("--json", action="store_true", help="with --plan: as JSON")
    return parser


def add_method_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("method")
    group.add_argument("--method", choices=defaults.METHODS,
                       help="trade: trades channels of groups for those of others at the asked latency, judged by "
                            "training from scratch for a few epochs; netadapt: step by step, trying candidates; the "
                            "others choose all widths at once; uniform: every group by the same factor; "
                            "uniform_filled: the same, in multiples of 1, 4, 8 or 16, then filled up to the latency; "
                            "blocks: fewer blocks in every stage, and every group by the same factor; random: a part "
                            "of a random group, again and again; params, macs: the widths with the most parameters, or "
                            "multiply-accumulate operations, within the latency; knapsack: the channels that are worth "
                            "most within the latency (default: trade; netadapt with one of its flags, below, or "
                            "where train.py did not train the base model from scratch)")
    group.add_argument("--pruning_method", choices=SCORES,
                       help="score of a channel: l2: norm of its filters; fisher, taylor: change of the loss without "
                            "it, to second or first order; bn: scale of its batch norm; random: a random number "
                            "(default: l2; knapsack: taylor)")
    group.add_argument("--keep", default="",
                       help="layers that are left alone, with all that they share channels with: LAYER,LAYER,...; * "
                            "stands for anything")
    group.add_argument("--multiple_of", type=cli.within(int, 1, 4096), default=1,
                       help="narrower widths are multiples of this number, in every method")
    group.add_argument("--floor", type=cli.within(float, 0, 1),
                       help="of knapsack, params, macs and trade: part of its width that every residual stream keeps "
                            "at least (default: 0; params, macs, trade: 0.25)")
    group.add_argument("--knapsack_steps", type=cli.within(int, 1, 1000),
                       help="of knapsack: brings the latency down by the same factor in so many steps; with several, "
                            "fine-tunes --short_term_fine_tune batches after each, and scores the channels anew "
                            "(default: 1)")


def add_search_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("search (netadapt)")
    usual = defaults.NETADAPT
    group.add_argument("--init_red_fact", type=cli.within(float, 1e-3, 1e9),
                       help="the first step has to gain pruning_fact * total / init_red_fact (default: "
                            f"{usual['init_red_fact']:g})")
    group.add_argument("--decay_rate", type=cli.within(float, 1e-9, 1),
                       help=f"factor on that gain from step to step (default: {usual['decay_rate']:g})")
    group.add_argument("--allow_small_prunings", action="store_true",
                       help="remove a whole block even if that gains less than a step asks for")
    group.add_argument("--criterion", choices=tuple(netadapt.CRITERIA),
                       help="the chosen candidate has the least: ratio: error growth per second gained; loss: loss "
                            f"growth per second gained; error: error (default: {usual['criterion']})")
    group.add_argument("--reach", type=cli.within(float, 1, 1e6),
                       help="a proposal may gain up to so many times what is asked for, to reach the end of a latency "
                            "step; 1: always the largest width that gains enough, NetAdapt's own rule (default: "
                            f"{usual['reach']:g})")
    group.add_argument("--removals", choices=netadapt.REMOVALS,
                       help="last: remove a block's branch only if no narrower width gains enough, NetAdapt's own "
                            "rule; always: a step also tries every block without it, if that gains enough (default: "
                            f"{usual['removals']})")
    group.add_argument("--search", choices=halving.SEARCHES,
                       help="halving: judge all candidates cheaply, the better ones more thoroughly; quick: on fewer "
                            "images, and only layers from the changed one on are fine-tuned; full: give every "
                            "candidate the whole short-term fine-tuning, NetAdapt's own way (default: "
                            f"{usual['search']})")
    group.add_argument("--layer_fraction", type=cli.part,
                       help="part of a step's proposals that is tried, drawn at random (default: "
                            f"{usual['layer_fraction']:g})")
    group = parser.add_argument_group("search (trade)")
    group.add_argument("--scratch_epochs", type=cli.within(int, 1, 1_000_000),
                       help="epochs from scratch, after which networks are compared; all but the best of a round get "
                            "only a ninth of them (default: 3; more of few images)")
    group.add_argument("--scratch_rate", type=cli.within(float, 1e-9, 1e3),
                       help="learning rate of the first of these epochs, as --learning_rate of train.py (default: that "
                            "of the base model's training)")


def add_training_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("fine-tuning")
    group.add_argument("--short_term_fine_tune", type=cli.within(int, 0, 1_000_000),
                       help=f"batches per candidate (default: {defaults.NETADAPT['short_term_fine_tune']})")
    group.add_argument("--long_term_fine_tune", type=cli.within(int, 0, 10_000_000),
                       help="batches at the end (default: none)")
    cli.optimiser_flags(group, learning_rate=None,
                        rate_help=f"learning rate of SGD (default: {defaults.NETADAPT['learning_rate']:g})",
                        later="; trade: that of the base model's training")


def main() -> None:
    args = get_parser().parse_args()
    wanted = {"net": args.net, "depth": args.depth, "width": args.width}
    base_path = locate(args.base_model, "checkpoints", ".t7") if args.base_model else None
    if args.plan and args.method in baselines.BY_WORTH:
        raise UserError(f"--plan reads no images, and --method={args.method} needs them")
    if args.plan and not (base_path and base_path.exists()):
        if base_path:
            print(f"note: {base_path} is missing; planning for the network of the flags", file=sys.stderr)
        network = cli.describe_or_fail(**{**wanted, "net": args.net or cli.DEFAULT_NET})
        show_plan(network, network.full_widths, vars(args))
        return
    if not args.save_file and not args.plan:
        raise UserError("--save_file is needed (only --plan goes without)")
    if base_path is None:
        raise UserError("--base_model is needed (only --plan goes without)")
    if args.backend == "ray" and args.jobs < 2:
        raise UserError("--backend=ray: needs --jobs=2 or more workers on the cluster")
    if args.backend == "ray":
        outlive_ray()

    from utils.learning import checkpoint, device  # torch takes seconds to load: first what does not need it
    from utils.learning.data import RANDOM
    from utils.pruning import assembly, run_files
    with device.memory_errors():
        files = None if args.plan else run_files.files_of(save_name(args.save_file))
        base = assembly.open_base(base_path, wanted)
        if files is None:
            show_plan(base.network, base.model.widths, vars(args))
            return
        data = checkpoint.data_of(base.content, args.dataset, args.data_loc, args.workers, args.holdout_prop)
        training = defaults.training_of(base.content)
        method, why = defaults.method(vars(args), run_files.method_begun_with(files) if args.resume else None,
                                      trained=training is not None and data.dataset != RANDOM)
        if why:
            print(f"--method={method}: {why}")
        for flag in defaults.unread(vars(args), method):
            print(f"note: --{flag}: --method={method} does not read it")
        asked = defaults.filled(vars(args), method, training or defaults.FROM_SCRATCH)
        prices = priced(args.perf_table, base.network)
        pruned = assembly.prune(pruning_of(asked, data), base, prices, files, flags_of(asked, data),
                                going_on=args.resume)
    if not pruned:
        print(f"{files.checkpoint}: finished already")
        return
    report(base.network, base.model.widths, pruned, prices.cost.unit, files)
    in_steps = method in baselines.BY_WORTH and asked["knapsack_steps"] > 1 and asked["short_term_fine_tune"]
    if method != "netadapt" and not in_steps and not args.long_term_fine_tune:
        again = [*cli.network_flags(base.network), f"--channels={files.channels.stem}", "--save_file=NAME"]
        print("the weights were cut and not trained since. Retrain the network"
              + (", with the flags of the base model's training" if training else "")
              + f":\npython train.py {shlex.join(again)}")


def pruning_of(flags: Flags, data: Data) -> Pruning:
    """The run that the flags ask for, each of which has its value."""
    compute = Compute(flags["device"], flags["precision"], flags["threads"], flags["seed"])
    return Pruning(settings=settings_of(flags), recipe=Recipe(**named(Recipe, flags)), data=data, compute=compute,
                   keep=kept(flags), **{name: flags[name] for name in (
                       "method", "pruning_method", "search", "short_term_fine_tune", "long_term_fine_tune",
                       "multiple_of", "jobs", "backend", "floor", "knapsack_steps", "scratch_epochs",
                       "scratch_rate")})


def flags_of(flags: Flags, data: Data) -> dict[str, Any]:
    """The flags as a run's files have them."""
    found = {**flags, "dataset": data.dataset, "data_loc": data.data_loc, "holdout_prop": data.holdout_prop}
    return {k: v for k, v in found.items() if k != "resume" and v not in NEWER_FLAGS.get(k, ())}


def settings_of(flags: Flags) -> Settings:
    return Settings(**named(Settings, flags))


def named(kind: type, flags: Flags) -> dict[str, Any]:
    """The flags that a dataclass has fields for."""
    return {field.name: flags[field.name] for field in fields(kind)}


def kept(flags: Flags) -> tuple[str, ...]:
    """Patterns of the layers that are left alone."""
    return tuple(filter(None, flags["keep"].split(",")))


def priced(name: str, network: Network) -> Prices:
    """What the network costs: by the table of that name, or by a count."""
    path = table_path(name)
    if name in COUNTS:
        if path.exists():
            print(f"note: --perf_table={name} counts; {path} is not read, unless it is named with its folder",
                  file=sys.stderr)
        cost = COUNTS[name](network)
        return Prices(cost, name, "", f"by {cost.unit.quantity}, which tell little of a device's latency")
    table = tables.read_table(path, network)
    found = pricing.priced(network, tables.prices(network, table), tables.memory_prices(network, table), table.cached_s)
    return Prices(Cost(found), path.name, sha256_of(table.all()), about_table(path, network))


def show_plan(network: Network, widths: Widths, given: Flags) -> None:
    """Print NetAdapt's first step, or the widths that another method chooses."""
    flags = defaults.filled(given, given["method"] or "netadapt", None)
    space = Space(network, kept(flags), flags["multiple_of"], flags["floor"]).checked()
    show = plan if flags["method"] == "netadapt" else partial(plan_at_once, flags["method"])
    show(space, widths, priced(flags["perf_table"], network), settings_of(flags), as_json=flags["json"])


def plan(space: Space, widths: Widths, prices: Prices, settings: Settings, *, as_json: bool) -> None:
    """Print what the first step would propose; needs no data, writes nothing."""
    latency, unit = prices.cost, prices.cost.unit
    total = latency(widths)
    target = netadapt.asked_gain_s(settings, netadapt.State(dict(widths), float("nan"), total), latency)
    found = netadapt.proposals(space, widths, latency, target, settings.allow_small_prunings, settings.reach)
    removals = netadapt.removals(space, widths, found, latency, target, settings)
    if as_json:
        print(json.dumps({"total_latency_s": total, "target_gain_s": target, "proposals": [
            {"group": group, "width": widths[group], "proposed_width": p.proposed_width if p else None,
             "gain_s": p.gain_s if p else None,
             **({"removal_gain_s": removals[group].gain_s} if group in removals else {})}
            for group, p in found]}))
        return
    print(f"{space.network.title}; {prices.about}\n"
          f"total {'latency' if unit == LATENCY else unit.quantity} {unit.words(total)}, to be brought to "
          f"{unit.words(netadapt.budget_s(settings, total))}; the first step has to gain {unit.words(target)}\n\n"
          f"{'group':<14}{'width':>6}{'proposed':>10}{f'gain ({unit.name})':>12}")
    for group, narrower in found:
        for p in (narrower, *filter(None, [removals.get(group)])):
            proposed, gain = (p.proposed_width, f"{p.gain_s * unit.scale:.4f}") if p else ("-", "-")
            print(f"{group:<14}{widths[group]:>6}{proposed:>10}{gain:>12}")


def plan_at_once(method: str, space: Space, widths: Widths, prices: Prices, settings: Settings, *,
                 as_json: bool) -> None:
    """Print the widths that a method chooses without images, or begins with; needs no data, writes nothing."""
    network, latency, unit = space.network, prices.cost, prices.cost.unit
    total = latency(widths)
    budget_s = netadapt.budget_s(settings, total)
    chosen = (trade.first(space, widths, latency, budget_s)[0] if method == "trade" else
              baselines.BY_LATENCY[method](space, widths, latency, budget_s, settings.seed))
    counts = {name: (network.parameter_count(w), network.multiply_adds(w), latency(w))
              for name, w in (("before", widths), ("after", chosen))}
    if as_json:
        print(json.dumps({"total_latency_s": total, "latency_s": latency(chosen), "widths": chosen,
                          "parameters": counts["after"][0], "macs": counts["after"][1]}))
        return
    begins = " begins with these widths, and trains networks to find better ones" if method == "trade" else ""
    print(f"{network.title}; {prices.about}\n"
          f"--method={method}{begins}; asked for {unit.words(budget_s)}\n\n"
          f"{'group':<14}{'before':>12}{'after':>12}")
    for group in (g.name for g in space.groups if g.prunable):
        print(f"{group:<14}{widths[group]:>12}{chosen[group] or 'removed':>12}")
    print()
    for row, (before, after) in zip(("parameters", "MACs", unit.name), zip(*counts.values())):
        numbers = (f"{n * unit.scale:.4f}" if row == unit.name else f"{n:,}" for n in (before, after))
        print(f"{row:<14}" + "".join(f"{number:>12}" for number in numbers))


def about_table(path: Path, network: Network) -> str:
    """The table in words: where it was measured, if its note has that, and what it lacks."""
    arrays, note = read_pair(path)
    origin, joins = origin_in(note), tables.missing_joins(network, arrays)
    return (f"latency table {path}" + (f" ({origin})" if origin else "")
            + (f"; it has no {', '.join(joins)}: additions count as free" if joins else ""))


def report(network: Network, before: Widths, pruned: "Pruned", unit: Unit, files: "RunFiles") -> None:
    """Print what the run did."""
    print("\ngroup           before   after")
    for group in (g for g, width in before.items() if pruned.widths[g] != width):
        print(f"{group:<14}{before[group]:>8}{pruned.widths[group] or 'removed':>8}")
    counted, (first, last) = f"{unit.quantity}, {unit.name}", (pruned.initial_s, pruned.latency_s)
    print(f"\n{'':<22}{'before':>12}{'after':>12}\n"
          f"{counted:<22}{first * unit.scale:>12.4f}{last * unit.scale:>12.4f}   "
          f"({(last / first - 1) * 100:+.1f}%)\n"
          f"{'held-out error, %':<22}{pruned.before.held_out:>12.2f}{pruned.after.held_out:>12.2f}\n"
          f"{'test error, %':<22}{pruned.before.test:>12.2f}{pruned.after.test:>12.2f}\n"
          f"{'parameters':<22}{network.parameter_count(before):>12,}{network.parameter_count(pruned.widths):>12,}\n\n"
          + ", ".join(map(str, filter(Path.exists, (files.checkpoint, files.channels, files.history, files.picture)))))


if __name__ == "__main__":
    cli.run(main)
