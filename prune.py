"""Prune a trained network until it meets the latency asked for, with NetAdapt or a simpler method to compare it with.

    python prune.py --save_file='res-40-2-pruned' --pruning_fact=0.4 --base_model='res-40-2' --perf_table='res-40-2'
    python prune.py --plan --pruning_fact=0.4 --perf_table='res-40-2' [--json]     # what the first step would propose

Reads checkpoints/BASE_MODEL.t7 and perf_tables/PERF_TABLE.pickle. Writes checkpoints/SAVE_FILE.t7 (the pruned network),
nbr_channels/SAVE_FILE.pickle (the channels left of every layer, to retrain from scratch), history/SAVE_FILE.jsonl
(every candidate, how far it went and why no further) and history/SAVE_FILE.png. After an interruption --resume goes on.
"""

import argparse
import contextlib
import json
import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Dict

from model.network import Network, Widths
from utils import baselines, cli, journal, latency_table, netadapt
from utils.channels import write_channels
from utils.errors import UserError
from utils.files import locate, save_name, writable_folder

FREE_FLAGS = ("device", "workers", "data_loc", "resume", "plan", "json", "long_term_fine_tune", "jobs", "backend")


def get_parser() -> argparse.ArgumentParser:
    parser = cli.new_parser(__doc__.splitlines()[0])
    parser.add_argument("--save_file", help="name of the results, in checkpoints/, nbr_channels/ and history/; needed unless --plan")
    parser.add_argument("--base_model", help="trained network, checkpoints/BASE_MODEL.t7 or a path; needed unless --plan")
    parser.add_argument("--perf_table", required=True, help="latency table, perf_tables/PERF_TABLE.pickle or a path")
    parser.add_argument("--pruning_fact", type=cli.fraction, required=True, help="part of the latency to remove")
    cli.add_network_flags(parser, defaults=False)
    group = parser.add_argument_group("method")
    group.add_argument("--method", choices=("netadapt", *baselines.METHODS), default="netadapt",
                       help="netadapt: step by step, by candidates tried; at once, with nothing tried: uniform: every "
                            "group by the same factor; random: a part of a random group, again and again; knapsack: the "
                            "channels that are worth most within the latency")
    group.add_argument("--pruning_method", choices=("l2", "fisher", "taylor", "bn", "random"),
                       help="what a channel's score is: the norm of its filters, the loss's change when it goes (to "
                            "second or first order), the scale of its batch norm, or drawn (default: l2; knapsack: taylor)")
    group = parser.add_argument_group("search (netadapt)")
    group.add_argument("--init_red_fact", type=cli.within(float, 1e-3, 1e9), default=20.0,
                       help="the first step has to gain pruning_fact * total / init_red_fact")
    group.add_argument("--decay_rate", type=cli.within(float, 1e-9, 1), default=0.98, help="of that gain, from step to step")
    group.add_argument("--allow_small_prunings", action="store_true",
                       help="let a whole block go even where that gains less than a step asks for")
    group.add_argument("--criterion", choices=tuple(netadapt.CRITERIA), default="ratio",
                       help="what the chosen candidate has least of: ratio: error growth per second gained; loss: loss "
                            "growth per second gained; error: error")
    group.add_argument("--reach", type=cli.within(float, 1, 1e6), default=1.0,
                       help="a proposal may gain up to so many times what is asked for, to get to the end of a latency "
                            "step; 1: always the largest width that gains enough, NetAdapt's own rule")
    group.add_argument("--removals", choices=netadapt.REMOVALS, default="last",
                       help="last: a block's branch may go only where no narrower width gains enough, NetAdapt's own rule; "
                            "always: a step also tries every block without it, if that gains enough")
    group.add_argument("--search", choices=("halving", "full"), default="halving",
                       help="halving: judge all candidates cheaply, the better ones more thoroughly; full: give every "
                            "candidate the whole short-term fine-tuning, NetAdapt's own way")
    group.add_argument("--layer_fraction", type=cli.part, default=1.0,
                       help="part of a step's proposals that is tried, drawn at random")
    group = parser.add_argument_group("fine-tuning")
    group.add_argument("--short_term_fine_tune", type=cli.within(int, 0, 1_000_000), default=100,
                       help="batches per candidate")
    group.add_argument("--long_term_fine_tune", type=cli.within(int, 0, 10_000_000), default=0,
                       help="batches at the end")
    cli.optimiser_flags(group, learning_rate=8e-4, rate_help="SGD's rate")
    cli.add_data_flags(parser, defaults=False)
    cli.add_run_flags(parser, resume="go on after an interruption; repeats at most the candidates in hand")
    group = parser.add_argument_group("workers")
    group.add_argument("--jobs", type=cli.within(int, 1, 4096), default=1,
                       help="processes that make candidates, each on a GPU of its own where there are several")
    group.add_argument("--threads", type=cli.within(int, 1, 4096),
                       help="of each process; the result depends on it (default: what the machine has, shared out)")
    group.add_argument("--backend", choices=("local", "ray"), default="local",
                       help="ray: --jobs processes of the Ray cluster that RAY_ADDRESS names or this machine is part of")
    group = parser.add_argument_group("look before you prune")
    group.add_argument("--plan", action="store_true",
                       help="print the total latency and the first step's proposals, and write nothing")
    group.add_argument("--json", action="store_true", help="with --plan: as JSON")
    return parser


def default_scores(method: str) -> str:
    """The --pruning_method of a --method."""
    return "taylor" if method == "knapsack" else "l2"


def main() -> None:
    args = get_parser().parse_args()
    args.pruning_method = args.pruning_method or default_scores(args.method)
    if args.plan:
        plan(args)
        return
    for flag in ("save_file", "base_model"):
        if not getattr(args, flag):
            raise UserError(f"--{flag} is needed (only --plan goes without)")
    if args.backend == "ray" and args.jobs < 2:
        raise UserError("--backend=ray: needs --jobs=2 or more, the workers to ask of the cluster")
    from utils import device
    with device.memory_errors():
        prune(args)


# --- look ------------------------------------------------------------------------------------------------------

def plan(args: argparse.Namespace) -> None:
    """Print what the first step would propose; needs neither data nor a checkpoint, writes nothing."""
    if args.method != "netadapt":
        raise UserError(f"--plan shows the first step of --method=netadapt; --method={args.method} has no steps")
    network, widths = planned_network(args)
    path = latency_table.table_path(args.perf_table)
    table = latency_table.read_table(path, network)

    def latency(at: Widths) -> float:
        return latency_table.latency_s(network, at, table)

    settings = settings_of(args)
    total = latency(widths)
    target = netadapt.asked_gain_s(settings, netadapt.State(widths, float("nan"), total), latency)
    found = netadapt.proposals(network, widths, latency, target, settings.allow_small_prunings, settings.reach)
    removals = netadapt.removals(network, widths, found, latency, target, settings)
    if args.json:
        print(json.dumps({"total_latency_s": total, "target_gain_s": target, "proposals": [
            {"group": group, "width": widths[group], "proposed_width": p.proposed_width if p else None,
             "gain_s": p.gain_s if p else None,
             **({"removal_gain_s": removals[group].gain_s} if group in removals else {})}
            for group, p in found]}))
        return
    print(f"{latency_table.name_of(network)}; {about_table(path, network)}\n"
          f"total latency {total * 1e3:.4f} ms, to be brought to {netadapt.budget_s(settings, total) * 1e3:.4f} ms; "
          f"the first step has to gain {target * 1e3:.4f} ms\n\n"
          f"{'group':<14}{'width':>6}{'proposed':>10}{'gain (ms)':>12}")
    for group, narrower in found:
        for p in (narrower, *filter(None, [removals.get(group)])):
            proposed, gain = (p.proposed_width, f"{p.gain_s * 1e3:.4f}") if p else ("-", "-")
            print(f"{group:<14}{widths[group]:>6}{proposed:>10}{gain:>12}")


def planned_network(args: argparse.Namespace):
    """(network, widths) of the checkpoint if there is one, else of the flags (a WideResNet-40-2 by default)."""
    path = locate(args.base_model, "checkpoints", ".t7") if args.base_model else None
    if path and path.exists():
        from utils import checkpoint
        model = checkpoint.build(checkpoint.load(path), path)
        check_network(args, model.network, path)
        return model.network, model.widths
    if path:
        print(f"note: {path} is not there, planning for the network of the flags", file=sys.stderr)
    network = cli.describe_or_fail(**{flag: default if getattr(args, flag) is None else getattr(args, flag)
                                      for flag, default in (("net", "res"), ("depth", 40), ("width", 2.0))})
    return network, network.full_widths


def settings_of(args: argparse.Namespace) -> netadapt.Settings:
    return netadapt.Settings(args.pruning_fact, args.init_red_fact, args.decay_rate, args.allow_small_prunings,
                             args.criterion, args.reach, args.removals, args.layer_fraction, args.seed)


def check_network(args: argparse.Namespace, network: Network, path: Path) -> None:
    """Refuse a checkpoint of another network than --net, --depth and --width say, where they are given."""
    for flag in ("net", "depth", "width"):
        wanted, found = getattr(args, flag), network.arguments.get(flag)
        if wanted is not None and wanted != found:
            raise UserError(f"{path}: a network of {flag} {found}, but --{flag}={wanted} was asked for")


def about_table(path: Path, network: Network) -> str:
    """The table, and where it was measured if its sidecar says so."""
    provenance = latency_table.read_provenance(path)
    merged = provenance.get("measurements")
    source = latency_table.plain_dict(merged[0] if isinstance(merged, list) and merged else provenance)
    device = latency_table.plain_dict(source.get("device"))
    words = [str(w) for w in (device.get("model") or device.get("processor"), source.get("runtime")) if w]
    joins = latency_table.missing_joins(network, latency_table.read_arrays(path))
    return (f"latency table {path}" + (f" ({', '.join(words)})" if words else "")
            + (f"; it has no {', '.join(joins)}: additions count as free" if joins else ""))


# --- prune -----------------------------------------------------------------------------------------------------

def prune(args: argparse.Namespace) -> None:
    """Look at everything that may be wrong, then prune, alone on these files."""
    from utils import checkpoint, pruning
    files = pruning.files_of(save_name(args.save_file))
    base_path = locate(args.base_model, "checkpoints", ".t7")
    if base_path.resolve() in (files.checkpoint.resolve(), files.current.resolve()):
        raise UserError(f"--save_file={args.save_file}: would overwrite the base model; choose another name")
    base = checkpoint.load(base_path)
    model = checkpoint.build(base, base_path)
    network = model.network
    check_network(args, network, base_path)
    fill_data_flags(args, base)
    table_path = latency_table.table_path(args.perf_table)
    table = latency_table.read_table(table_path, network)
    latency = partial(latency_table.latency_s, network, table=table)
    settings, initial_s = settings_of(args), latency(model.widths)  # a target out of reach is said before any work
    if args.method == "netadapt":
        netadapt.proposals_of_step(network, netadapt.State(model.widths, float("nan"), initial_s), settings, latency)
    elif args.method != "knapsack":
        baselines.by_latency(args.method, network, model.widths, latency, netadapt.budget_s(settings, initial_s), args.seed)
    for file in (files.checkpoint, files.history, files.channels):
        writable_folder(file.parent)
    with journal.locked(files.journal):
        origin = {"base_model": base_path.name, "base_weights_sha256": checkpoint.weights_sha256(base),
                  "perf_table": table_path.name, "table_sha256": latency_table.sha256(table),
                  "initial_latency_s": initial_s, "target_latency_s": netadapt.budget_s(settings, initial_s)}
        if finished(files, args, origin):
            files.remove_unfinished()
            print(f"{files.checkpoint}: finished already")
        else:
            run_pruning(args, files, base, base_path, model, table_path, latency, origin)


def run_pruning(args: argparse.Namespace, files, base: Dict[str, Any], base_path: Path, model, table_path: Path,
                latency: netadapt.Latency, origin: Dict[str, Any]) -> None:
    """Begin, or go on where an interrupted run was; base: the content of the checkpoint of ``model``; origin: what was
    pruned, by which table, to which latency."""
    from utils import checkpoint, data, halving, pruning, training
    from utils.candidates import Workshop
    network, settings, initial_s = model.network, settings_of(args), origin["initial_latency_s"]
    device = pick_device(args, files)
    images = data.load_for(network, base_path, args.dataset, args.data_loc, args.workers)
    train, held_out = data.split_holdout(images.train, args.holdout_prop)
    source = training.BatchSource(train.to(device.name), checkpoint.normalisation_of(base), images.flip, args.batch_size)
    workshop = Workshop(source, held_out.to(device.name), device, args.threads, args.learning_rate, args.momentum,
                        args.weight_decay, args.seed, args.pruning_method)
    rungs = halving.ladder(args.search, args.short_term_fine_tune)
    header = {"event": "start", **origin, "rungs": [asdict(rung) for rung in rungs],
              "flags": {k: v for k, v in vars(args).items() if k not in FREE_FLAGS}}
    content, done = pruning.take_up(files, header, resume=args.resume)
    model = device.place(model)
    test = images.test.to(device.name)
    print(f"{latency_table.name_of(network)}; {about_table(table_path, network)}\n"
          f"{initial_s * 1e3:.4f} ms to be brought to {header['target_latency_s'] * 1e3:.4f} ms; "
          f"{len(train):,} images to fine-tune on, {len(held_out):,} to judge on; on {device.name} in {device.precision}",
          flush=True)
    before = {"held_out": workshop.error_pct(model, workshop.held_out), "test": workshop.error_pct(model, test)}
    with journal.Journal(files.journal) as log, crew_of(args, workshop, model) as crew:
        run = pruning.Run(files, log, crew, rungs, args.criterion,
                          {"epoch": base["epoch"], "holdout_prop": args.holdout_prop, "flags": checkpoint.flags_of(args),
                           "classes": base.get("classes") or list(images.classes)},
                          model, [before["held_out"]], [initial_s])
        if content:
            run.model = device.place(checkpoint.build(content, files.current))
            run.prune_history, run.error_history = content["prune_history"], content["error_history"]
            run.table_costs_history = content["table_costs_history"]
        run.take_up_trials(done)
        with run.tidied():
            if args.method == "netadapt":
                search(run, settings, initial_s, latency)
            elif not run.prune_history:
                prune_at_once(args.method, run, netadapt.budget_s(settings, initial_s), latency, args.seed)
        finish(args, run, model, before, header, test)


def pick_device(args: argparse.Namespace, files):
    """The device; precision and threads that were not asked for are an unfinished run's, or what suits the machine."""
    import torch
    from utils import device as devices
    found = journal.read(files.journal) if args.resume else None
    began = found[0].get("flags") if found and isinstance(found[0].get("flags"), dict) else {}
    if args.precision == "auto" and began.get("precision") in ("fp32", "bf16"):
        args.precision = began["precision"]
    device = devices.pick(args.device, args.precision)
    args.precision = device.precision
    if args.threads is None:
        known = began.get("threads")
        args.threads = known if isinstance(known, int) and known > 0 else max(torch.get_num_threads() // args.jobs, 1)
    devices.settle(device, args.threads)
    return device


@contextlib.contextmanager
def crew_of(args: argparse.Namespace, workshop, model):
    """Who makes the candidates: this process, or as many workers as asked for and as the memory holds."""
    from utils import memory
    from utils.parcels import Crew
    from utils.workers import Workers
    if args.jobs == 1 and args.backend == "local" or args.method != "netadapt":
        yield Crew(workshop)
        return
    groups = model.network.groups
    most = sum(g.prunable for g in groups) + (sum(g.removable for g in groups) if args.removals == "always" else 0)
    jobs = min(args.jobs, most)  # a step has no more candidates
    if args.backend == "local" and workshop.device.name == "cpu":
        each = memory.needed_bytes(model.network, model.widths, args.batch_size, args.search)
        fit = memory.jobs_that_fit(jobs, each)
        if fit < jobs:
            print(f"--jobs={args.jobs}: the memory holds about {fit}, of {each / 1e9:.1f} GB each; going on with {fit}",
                  flush=True)
        jobs = fit
    packages = [str(Path(__file__).parent / name) for name in ("model", "utils")]
    with Workers(jobs, args.backend, packages=packages, gpu=workshop.device.name.startswith("cuda")) as workers:
        yield Crew(workshop, workers)


def fill_data_flags(args: argparse.Namespace, base: Dict[str, Any]) -> None:
    """Data flags that were not given are the base model's; a changed hold-out is said."""
    from utils import checkpoint
    args.dataset, args.data_loc = (getattr(args, k) or v for k, v in checkpoint.data_flags(base).items())
    if args.holdout_prop is None:
        args.holdout_prop = base["holdout_prop"] or 0.1
    if args.holdout_prop != base["holdout_prop"]:
        print(f"note: the base model held out {base['holdout_prop']:g} of its images, so --holdout_prop="
              f"{args.holdout_prop:g} judges candidates on images that it was trained on", flush=True)


def finished(files, args: argparse.Namespace, origin: Dict[str, Any]) -> bool:
    """Whether --resume finds exactly this run complete. Raises UserError if the checkpoint is not this run's to replace."""
    from utils import checkpoint
    if files.journal.exists() or not files.checkpoint.exists():
        return False
    content = checkpoint.load(files.checkpoint)
    if "prune_history" not in content:
        raise UserError(f"{files.checkpoint}: a network that prune.py did not make; choose another --save_file")
    if not args.resume:
        return False
    free = tuple(flag for flag in FREE_FLAGS if flag != "long_term_fine_tune") + ("threads", "precision")
    changed = cli.changed_flags(content["flags"], vars(args), free)
    if changed:
        raise UserError(f"{files.checkpoint}: a finished run with other flags: {changed}; leave out --resume to replace it")
    began = journal.header_of(files.history)
    for key in ("base_weights_sha256", "table_sha256", "initial_latency_s"):
        if began.get(key, origin[key]) != origin[key]:
            raise UserError(f"{files.history}: a finished run that began with {key} {began[key]!r}, now {origin[key]!r}; leave "
                            "out --resume to replace it")
    return True


def search(run, settings: netadapt.Settings, initial_s: float, latency: netadapt.Latency) -> None:
    """Prune step by step, saying how far it is."""
    network, budget = run.model.network, netadapt.budget_s(settings, initial_s)
    state = netadapt.State(run.model.widths, run.error_history[-1], initial_s, len(run.prune_history))
    began, first_s = time.monotonic(), run.table_costs_history[-1]
    for step in netadapt.search(network, state, settings, latency, run.evaluate):
        run.adopt(step)
        chosen, gained = step.chosen.proposal, first_s - step.latency_s
        left = (time.monotonic() - began) * max(step.latency_s - budget, 0) / gained
        print(f"step {step.state.step}: {chosen.group} {chosen.width} -> {chosen.proposed_width}; "
              f"{step.latency_s * 1e3:.4f} ms, asked for {budget * 1e3:.4f}; held-out error {step.state.error_pct:.2f}%; "
              f"about {left / 60:.1f} min left", flush=True)


def prune_at_once(method: str, run, budget_s: float, latency: netadapt.Latency, seed: int) -> None:
    """Prune by a method that tries no candidates."""
    network, widths = run.model.network, run.model.widths
    if method == "knapsack":
        saliency = {group: values.tolist() for group, values in run.scores_of_step().items()}
        chosen = baselines.knapsack(network, widths, latency, budget_s, saliency)
    else:
        chosen = baselines.by_latency(method, network, widths, latency, budget_s, seed)
    run.adopt_at_once(method, chosen, latency(chosen))
    print(f"{method}: {run.table_costs_history[-1] * 1e3:.4f} ms, asked for {budget_s * 1e3:.4f}; held-out error "
          f"{run.error_history[-1]:.2f}% with batch norms measured anew, before any fine-tuning", flush=True)


def finish(args: argparse.Namespace, run, base_model, before: Dict[str, float], header: Dict[str, Any], test) -> None:
    """Fine-tune once more if asked to, write the results, and sum up."""
    from utils import plots
    files, network, workshop = run.files, run.model.network, run.crew.workshop
    if args.long_term_fine_tune:
        print(f"fine-tuning {args.long_term_fine_tune} batches", flush=True)
        if not workshop.tune(run.model, args.long_term_fine_tune, len(run.prune_history) + 1):
            raise UserError("the loss became NaN in the long fine-tuning; go on with --resume --long_term_fine_tune=0")
    after = {"held_out": workshop.error_pct(run.model, workshop.held_out), "test": workshop.error_pct(run.model, test)}
    channels, latency_s = network.conv_channels(run.model.widths), run.table_costs_history[-1]
    run.save(files.checkpoint, run.model, test_error=after["test"])
    write_channels(files.channels, network, run.model.widths)
    plots.plot_pruning(files.picture, latencies_s=run.table_costs_history, errors_pct=run.error_history,
                       target_s=header["target_latency_s"], before=network.conv_channels(base_model.widths),
                       after=channels, title=f"{files.checkpoint.stem}: {header['base_model']} pruned by the latencies "
                                             f"of {header['perf_table']}")
    run.finish({"held_out_error_pct": after["held_out"], "test_error_pct": after["test"], "latency_s": latency_s})

    narrowed = {g: w for g, w in base_model.widths.items() if run.model.widths[g] != w}
    print("\ngroup           before   after")
    for group, width in narrowed.items():
        print(f"{group:<14}{width:>8}{run.model.widths[group] or 'removed':>8}")
    initial_s, parameters = header["initial_latency_s"], network.parameter_count
    print(f"\n{'':<22}{'before':>12}{'after':>12}\n"
          f"{'predicted latency, ms':<22}{initial_s * 1e3:>12.4f}{latency_s * 1e3:>12.4f}   "
          f"({(latency_s / initial_s - 1) * 100:+.1f}%)\n"
          f"{'held-out error, %':<22}{before['held_out']:>12.2f}{after['held_out']:>12.2f}\n"
          f"{'test error, %':<22}{before['test']:>12.2f}{after['test']:>12.2f}\n"
          f"{'parameters':<22}{parameters(base_model.widths):>12,}{parameters(run.model.widths):>12,}\n\n"
          f"{files.checkpoint}, {files.channels}, {files.history}, {files.picture}")


if __name__ == "__main__":
    cli.run(main)
