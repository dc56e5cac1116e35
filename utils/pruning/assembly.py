"""A pruning run from beginning to end: check everything first, then begin or resume the run."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional

from model.network import Network, Widths
from model.torch_net import TorchNet
from utils.common.channels import write_channels
from utils.common.errors import UserError
from utils.common.figure import beside_a_result
from utils.common.files import PROJECT, writable_folder
from utils.common.journal import Journal, Record
from utils.common.lock import locked
from utils.common.provenance import stamp
from utils.common.resume import changed_flags
from utils.common.workers import Workers
from utils.learning import checkpoint, data, training
from utils.learning import device as devices
from utils.learning.data import Dataset, Images
from utils.learning.device import Device
from utils.pruning import history, memory, run_files
from utils.pruning.candidates import Workshop
from utils.pruning.crew import Crew
from utils.pruning.plots import plot_pruning
from utils.pruning.run import Run
from utils.pruning.run_files import RunFiles
from utils.pruning.settings import Prices, Pruning
from utils.pruning.trading import epochs_of, judges_of
from utils.search import baselines, defaults, halving, netadapt, trade
from utils.search.costs import LATENCY, Cost

FREE_FLAGS = ("device", "workers", "data_loc", "resume", "plan", "json", "long_term_fine_tune", "jobs",
              "backend")  # may differ between a run and its resumption
PACKAGES = ("model", "utils")  # folders of modules that a cluster's machines need


@dataclass(frozen=True)
class Base:
    """The network to prune."""

    path: Path  # of its checkpoint
    content: dict[str, Any]
    model: TorchNet

    @property
    def network(self) -> Network:
        return self.model.network


@dataclass(frozen=True)
class Errors:
    """Errors of a network, in %."""

    held_out: float
    test: float


@dataclass(frozen=True)
class Pruned:
    """The result of a run, and its state before."""

    widths: Widths
    latency_s: float  # predicted
    initial_s: float
    before: Errors
    after: Errors


def open_base(path: Path, wanted: Mapping[str, Any]) -> Base:
    """The network of a checkpoint. Raises UserError where it is not one of the ``wanted`` arguments (None: any)."""
    content = checkpoint.load(path)
    base = Base(path, content, checkpoint.build(content, path))
    for flag, value in wanted.items():
        found = base.network.arguments.get(flag)
        if value is not None and value != found:
            raise UserError(f"{path}: a network of {flag} {found}, but --{flag}={value} was asked for")
    return base


def check_reachable(asked: Pruning, base: Base, prices: Prices) -> None:
    """Raise UserError, before any work, where no width meets the latency asked for."""
    space, widths = asked.space_of(base.network).checked(), base.model.widths
    initial_s = prices.cost(widths)
    budget_s = netadapt.budget_s(asked.settings, initial_s)
    if asked.method == "netadapt":
        narrowest = space.narrowest(widths)
        counted = not prices.sha256  # a latency may rise with fewer channels
        if counted and narrowest and prices.cost(narrowest) > budget_s:
            raise netadapt.out_of_reach("netadapt", prices.cost, narrowest, budget_s)
        state = netadapt.State(dict(widths), float("nan"), initial_s)
        netadapt.proposals_of_step(space, state, asked.settings, prices.cost)
    elif asked.method == "trade":
        trade.first(space, widths, prices.cost, budget_s)
    elif asked.method in baselines.BY_LATENCY:
        baselines.BY_LATENCY[asked.method](space, widths, prices.cost, budget_s, asked.compute.seed)


def _note_what_it_knows(asked: Pruning, base: Base) -> None:
    """Say where the base model may have been trained on the images that judge candidates."""
    if asked.data.dataset == data.RANDOM or asked.method == "trade":  # which trains its networks from scratch
        return
    if base.content["epoch"] == 0:
        print("note: the base model was not trained here. If it was trained on these images elsewhere, it knows the "
              "held-out ones", flush=True)
    elif asked.data.holdout_prop != base.content["holdout_prop"]:
        print(f"note: the base model held out {base.content['holdout_prop']:g} of its images, so --holdout_prop="
              f"{asked.data.holdout_prop:g} judges candidates on images that it was trained on", flush=True)


def prune(asked: Pruning, base: Base, prices: Prices, files: RunFiles, flags: Mapping[str, Any], *,
          going_on: bool) -> Optional[Pruned]:
    """Prune, with the run's files locked; None if --resume finds exactly this run finished. Raises UserError.

    flags: the command line, which is stored in the results.
    """
    if base.path.resolve() in (files.checkpoint.resolve(), files.current.resolve()):
        raise UserError(f"--save_file={flags['save_file']}: would overwrite the base model; choose another name")
    if asked.method == "trade" and asked.data.dataset == data.RANDOM:
        raise UserError("--method=trade: trains networks, and no images were named; name them with --data_loc or "
                        "--dataset, or use --method=netadapt")
    _note_what_it_knows(asked, base)
    check_reachable(asked, base, prices)
    for file in (files.checkpoint, files.history, files.channels):
        writable_folder(file.parent)
    initial_s = prices.cost(base.model.widths)
    with locked(files.checkpoint), locked(files.journal):
        origin = {"base_model": base.path.name, "base_weights_sha256": checkpoint.weights_sha256(base.content),
                  "perf_table": prices.table, "table_sha256": prices.sha256, "initial_latency_s": initial_s,
                  "target_latency_s": netadapt.budget_s(asked.settings, initial_s),
                  **({} if prices.cost.unit == LATENCY else {"counts": prices.cost.unit.quantity})}
        if _finished(files, flags, origin, going_on=going_on):
            files.remove_unfinished()
            return None
        return _run(asked, base, prices, files, flags, origin, going_on=going_on)


def _run(asked: Pruning, base: Base, prices: Prices, files: RunFiles, flags: Mapping[str, Any], origin: Record, *,
         going_on: bool) -> Pruned:
    """Begin or resume the run. origin: the base model, the table and the latencies, for the journal's header."""
    compute = asked.compute.as_begun(run_files.flags_begun_with(files)) if going_on else asked.compute
    device, compute = devices.settled(compute, asked.jobs)
    asked = replace(asked, compute=compute)
    flags = {**flags, "precision": compute.precision, "threads": compute.threads}
    images = data.load_for(base.network, base.path, asked.data, checkpoint.learned_classes(base.content))
    if asked.data.dataset == data.RANDOM:
        print("note: no data was named: the network is judged on random images, by whether it answers what the base "
              "model answers; that tells nothing of your images. Name them with --data_loc or --dataset", flush=True)
    workshop, training = _workshop(asked, base, images, device), defaults.training_of(base.content)
    if asked.method == "trade":
        batches = math.ceil(len(workshop.source.images) / asked.recipe.batch_size)
        epochs = (asked.scratch_epochs or (run_files.epochs_begun_with(files) if going_on else None)
                  or epochs_of(batches, base.content["epoch"] if training else 0))
        asked = replace(asked, scratch_epochs=epochs)
        origin = {**origin, "scratch_epochs": asked.scratch_epochs}
    rungs = halving.ladder(asked.search, asked.short_term_fine_tune)
    header = {"event": "start", **stamp(history.FORMAT), **origin, "rungs": [rung.as_record() for rung in rungs],
              "flags": {k: v for k, v in flags.items() if k not in FREE_FLAGS}}
    content, done = run_files.begin_or_go_on(files, header, going_on=going_on)
    model, test, unit = device.place(base.model), _labelled(asked, base, images.test, device), prices.cost.unit
    print(f"{base.network.title}; {prices.about}\n"
          f"{unit.words(origin['initial_latency_s'])} to be brought to {unit.words(origin['target_latency_s'])}; "
          f"{len(workshop.source.images):,} images to fine-tune on, {len(workshop.held_out):,} to judge on; on "
          f"{device.name} in {device.precision}", flush=True)
    before = _errors(workshop, model, test)
    carried = {"epoch": base.content["epoch"], "holdout_prop": asked.data.holdout_prop, "flags": flags,
               "classes": base.content.get("classes") or list(images.classes),
               **({"training": training} if training else {})}
    with Journal(files.journal) as log, _crew(asked, workshop, model) as crew:
        run = Run(files, log, crew, rungs, asked.settings.criterion, unit, carried, model, [before.held_out],
                  [origin["initial_latency_s"]])
        run.go_on(content, done)
        with run.tidied():
            if asked.method == "netadapt":
                _search(run, asked, origin["initial_latency_s"], prices.cost)
            elif not run.prune_history and asked.method == "trade":
                _trade(asked, run, origin["target_latency_s"], prices.cost)
            elif asked.method in baselines.BY_WORTH:
                _prune_by_worth(asked, run, origin["initial_latency_s"], prices.cost)
            elif not run.prune_history:
                _prune_at_once(asked, run, origin["target_latency_s"], prices.cost)
        after = _finish(run, asked.long_term_fine_tune, model.widths, header, test)
    return Pruned(run.model.widths, run.table_costs_history[-1], origin["initial_latency_s"], before, after)


def _labelled(asked: Pruning, base: Base, images: Images, device: Device) -> Images:
    """The images on the device; random ones with what the base model takes them for."""
    images = images.to(device.name)
    if asked.data.dataset != data.RANDOM:
        return images
    return training.labelled_by(device.place(base.model), images, checkpoint.normalisation_of(base.content), device)


def _workshop(asked: Pruning, base: Base, images: Dataset, device: Device) -> Workshop:
    train, held_out = (_labelled(asked, base, part, device)
                       for part in data.split_holdout(images.train, asked.data.holdout_prop))
    source = training.BatchSource(train, checkpoint.normalisation_of(base.content), images.flip,
                                  asked.recipe.batch_size)
    return Workshop(source, held_out, device, asked.recipe, asked.compute.threads or 1,
                    asked.compute.seed, asked.pruning_method)


@contextmanager
def _crew(asked: Pruning, workshop: Workshop, model: TorchNet) -> Iterator[Crew]:
    """The crew that makes the candidates: this process, or as many workers as asked for and as fit into memory."""
    if asked.jobs == 1 and asked.backend == "local" or asked.method not in ("netadapt", "trade"):
        yield Crew(workshop)
        return
    groups = model.network.groups
    removals = sum(g.removable for g in groups) if asked.settings.removals == "always" else 0
    most = trade.JUDGED if asked.method == "trade" else sum(g.prunable for g in groups) + removals
    jobs = min(asked.jobs, most)  # a step, or a round, has no more candidates
    if asked.backend == "local":
        jobs = jobs_of_this_machine(asked, workshop.device, model, jobs)
    packages = [str(PROJECT / name) for name in PACKAGES]
    with Workers(jobs, asked.backend, packages=packages, gpu=workshop.device.name.startswith("cuda")) as workers:
        yield Crew(workshop, workers)


def jobs_of_this_machine(asked: Pruning, device: Device, model: TorchNet, jobs: int) -> int:
    """As many as fit into memory, or as there are GPUs; says so if that is fewer."""
    if device.name == "cpu":
        each = memory.needed_bytes(model.network, model.widths, asked.recipe.batch_size, asked.search)
        fit = memory.jobs_that_fit(jobs, each)
        reason = f"the memory holds about {fit}, of {each / 1e9:.1f} GB each"
    else:
        fit = min(jobs, len(device.one_each("local")))
        reason = "several processes on one GPU are slower than one"
    if fit < jobs:
        print(f"--jobs={asked.jobs}: {reason}; going on with {fit}", flush=True)
    return fit


def _finished(files: RunFiles, flags: Mapping[str, Any], origin: Record, *, going_on: bool) -> bool:
    """Whether --resume finds exactly this run complete. Raises UserError if this run may not replace the file."""
    if files.journal.exists() or not files.checkpoint.exists():
        return False
    content = checkpoint.load(files.checkpoint)
    if "prune_history" not in content:
        raise UserError(f"{files.checkpoint}: a network that prune.py did not make; choose another --save_file")
    if not going_on:
        return False
    free = tuple(flag for flag in FREE_FLAGS if flag != "long_term_fine_tune") + ("threads", "precision")
    changed = changed_flags(content["flags"], flags, free)
    if changed:
        raise UserError(f"{files.checkpoint}: a finished run with other flags: {changed}; leave out --resume to "
                        "replace it")
    began = history.header_of(files.history)
    for key in ("base_weights_sha256", "table_sha256", "initial_latency_s"):
        if began.get(key, origin[key]) != origin[key]:
            raise UserError(f"{files.history}: a finished run that began with {key} {began[key]!r}, now "
                            f"{origin[key]!r}; leave out --resume to replace it")
    return True


def _search(run: Run, asked: Pruning, initial_s: float, cost: Cost) -> None:
    """Prune step by step, and print the progress."""
    settings, space = asked.settings, asked.space_of(run.model.network)
    budget_s = netadapt.budget_s(settings, initial_s)
    state = netadapt.State(run.model.widths, run.error_history[-1], initial_s, len(run.prune_history))
    began, first_s = time.monotonic(), run.table_costs_history[-1]
    for step in netadapt.search(space, state, settings, cost, run.evaluate):
        run.adopt(step)
        chosen, gained = step.chosen.proposal, first_s - step.latency_s
        left = (time.monotonic() - began) * max(step.latency_s - budget_s, 0) / gained
        print(f"step {step.state.step}: {chosen.group} {chosen.width} -> {chosen.proposed_width}; "
              f"{cost.unit.words(step.latency_s)}, asked for {budget_s * cost.unit.scale:.4f}; held-out error "
              f"{step.state.error_pct:.2f}%; about {left / 60:.1f} min left", flush=True)


def _prune_at_once(asked: Pruning, run: Run, budget_s: float, cost: Cost) -> None:
    """Prune by a method that knows the latencies alone."""
    space, widths = asked.space_of(run.model.network), run.model.widths
    chosen = baselines.BY_LATENCY[asked.method](space, widths, cost, budget_s, asked.compute.seed)
    _adopt(asked.method, run, chosen, cost, budget_s)


def _prune_by_worth(asked: Pruning, run: Run, initial_s: float, cost: Cost) -> None:
    """Prune by the scores of channels; in several steps with fine-tuning after each, as HALP does (arXiv 2110.10811,
    section 3.4)."""
    space, steps = asked.space_of(run.model.network), asked.knapsack_steps
    for step in range(len(run.prune_history) + 1, steps + 1):
        budget_s = netadapt.budget_s(asked.settings, initial_s) ** (step / steps) * initial_s ** (1 - step / steps)
        saliency = {group: values.tolist() for group, values in run.scores_of_step().items()}
        chosen = baselines.BY_WORTH[asked.method](space, run.model.widths, cost, budget_s, saliency)
        _adopt(asked.method, run, chosen, cost, budget_s, asked.short_term_fine_tune if steps > 1 else 0)


def _adopt(method: str, run: Run, chosen: Widths, cost: Cost, budget_s: float, fine_tune: int = 0) -> None:
    run.adopt_at_once(method, chosen, cost(chosen), fine_tune)
    print(f"{method}: {cost.unit.words(run.table_costs_history[-1])}, asked for "
          f"{budget_s * cost.unit.scale:.4f}; held-out error {run.error_history[-1]:.2f}% "
          + (f"after {fine_tune} batches" if fine_tune else "with batch norms measured anew, before any fine-tuning"),
          flush=True)


def _trade(asked: Pruning, run: Run, budget_s: float, cost: Cost) -> None:
    """Prune to the widths that learn fastest from scratch, of those that trading finds."""
    network = run.model.network
    assert asked.scratch_epochs  # _run has settled it
    judges = judges_of(network, asked.scratch_recipe, asked.scratch_epochs, cost, run.crew, run.log, run.losses)
    chosen = trade.search(asked.space_of(network), run.model.widths, cost, budget_s, *judges)
    _adopt(asked.method, run, chosen, cost, budget_s)


def _finish(run: Run, long_term_fine_tune: int, before: Widths, header: Record, test: Images) -> Errors:
    """Fine-tune once more if asked to, and write the results."""
    files, network, workshop = run.files, run.model.network, run.crew.workshop
    if long_term_fine_tune:
        print(f"fine-tuning {long_term_fine_tune} batches", flush=True)
        if not workshop.tune(run.model, long_term_fine_tune, len(run.prune_history) + 1):
            raise UserError("the loss became NaN in the long fine-tuning; go on with --resume --long_term_fine_tune=0")
    after = _errors(workshop, run.model, test)
    run.write_checkpoint(after.test)
    write_channels(files.channels, network, run.model.widths)
    by = f"the latencies of {header['perf_table']}" if run.unit == LATENCY else run.unit.quantity
    with beside_a_result(files.picture):
        plot_pruning(files.picture, latencies_s=run.table_costs_history, errors_pct=run.error_history,
                     target_s=header["target_latency_s"], unit=run.unit, before=network.conv_channels(before),
                     after=network.conv_channels(run.model.widths),
                     title=f"{files.checkpoint.stem}: {header['base_model']} pruned by {by}")
    run.finish({"held_out_error_pct": after.held_out, "test_error_pct": after.test,
                "latency_s": run.table_costs_history[-1]})
    return after


def _errors(workshop: Workshop, model: TorchNet, test: Images) -> Errors:
    return Errors(workshop.error_pct(model, workshop.held_out), workshop.error_pct(model, test))
