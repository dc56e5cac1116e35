"""How fast a step of prune.py and a pass of train.py are, compared with a plain loop in one run on one machine.

    python benchmarks/search.py [--depth 40 --width 2.0 --perf_table res-40-2] [--no_workers] [--json]

The plain loop is the baseline: fp32 tensors in torch's default layout, torchvision's augmentation of single PIL images,
and validation with gradients in batches of 50. A plain step fully fine-tunes and judges every candidate. That takes
most of an hour, so the batches of a few candidates are timed, and their time is multiplied. A step of prune.py runs
whole and once, with its files. Plain and fast training alternate; the results are medians. The images are random and
the network is untrained: neither changes the time.
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch
from torch import nn
from torch.nn import functional as F

from model import surgery
from model.torch_net import TorchNet
from utils.common import cli, journal
from utils.common.provenance import made_by
from utils.common.workers import Workers
from utils.latency import tables
from utils.latency.table_files import table_path
from utils.learning import device as devices
from utils.learning import training
from utils.learning.data import Images, Normalisation
from utils.learning.device import Device
from utils.learning.settings import Recipe
from utils.pruning import run_files
from utils.pruning.candidates import Workshop
from utils.pruning.crew import Crew
from utils.pruning.run import Run
from utils.pruning.scores import filter_norms
from utils.search import halving, netadapt, pricing
from utils.search.costs import LATENCY, Cost
from utils.search.netadapt import Latency, Proposal
from utils.search.space import Space

NORMALISATION = Normalisation((0.49, 0.48, 0.45), (0.25, 0.24, 0.26))
TRAIN, HELD_OUT = 45_000, 5_000  # images, as many as CIFAR-10 has
PLAIN_VALIDATION = 50  # images per batch
SGD = {"learning_rate": 8e-4, "momentum": 0.9, "weight_decay": 5e-4}


@dataclass(frozen=True)
class Sizes:
    """How much is timed."""

    batch_size: int
    short_term_fine_tune: int  # batches for a candidate
    rounds: int
    batches: int  # per side and round

    @property
    def recipe(self) -> Recipe:
        return Recipe(**SGD, batch_size=self.batch_size)


def get_parser() -> argparse.ArgumentParser:
    parser = cli.new_parser(__doc__)
    cli.add_network_flags(parser)
    parser.add_argument("--perf_table", default=str(ROOT / "perf_tables/res-40-2.pickle"), help="as in prune.py")
    parser.add_argument("--pruning_fact", type=cli.fraction, default=0.4, help="as in prune.py")
    parser.add_argument("--short_term_fine_tune", type=cli.within(int, 1, 1_000_000), default=100,
                        help="as in prune.py")
    parser.add_argument("--batch_size", type=cli.within(int, 2, 1_000_000), default=128, help="as in prune.py")
    parser.add_argument("--searches", nargs="+", choices=halving.SEARCHES, default=list(halving.SEARCHES[:2]),
                        help="those of prune.py whose step is timed")
    parser.add_argument("--device", default="auto", help="as in prune.py")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto",
                        help="precision of the fast side")
    parser.add_argument("--rounds", type=cli.within(int, 1, 1000), default=3,
                        help="rounds before the steps, and as many after them")
    parser.add_argument("--batches", type=cli.within(int, 1, 10_000), default=5,
                        help="batches per side and round; a GPU needs hundreds")
    parser.add_argument("--no_workers", action="store_true", help="leave the speed-up by two workers out")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


# --- the yardstick ---------------------------------------------------------------------------------------------

class PlainImages(torch.utils.data.Dataset):
    """Images that torchvision augments one by one."""

    def __init__(self, images: Images):
        from PIL import Image
        from torchvision import transforms
        self.pictures = [Image.fromarray(p.permute(1, 2, 0).numpy()) for p in images.pixels]
        self.labels = images.labels.tolist()
        self.transform = transforms.Compose([
            transforms.Pad(4, padding_mode="reflect"), transforms.RandomCrop(32), transforms.RandomHorizontalFlip(),
            transforms.ToTensor(), transforms.Normalize(NORMALISATION.mean, NORMALISATION.std)])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int):
        return self.transform(self.pictures[index]), self.labels[index]


def plain_training(model: nn.Module, images: PlainImages, batches: int, batch_size: int, name: str) -> float:
    """Seconds per batch of SGD, with the loading of its images."""
    optimizer = torch.optim.SGD(model.parameters(), lr=SGD["learning_rate"], momentum=SGD["momentum"],
                                weight_decay=SGD["weight_decay"])
    loader = torch.utils.data.DataLoader(images, batch_size, shuffle=True)
    model.train()
    began = time.perf_counter()
    for _, (x, y) in zip(range(batches), loader):
        loss = F.cross_entropy(model(x.to(name)), y.to(name))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
    return (time.perf_counter() - began) / batches


def plain_validation(model: nn.Module, images: PlainImages, batches: int, name: str) -> float:
    """Seconds per judged image."""
    loader = torch.utils.data.DataLoader(images, PLAIN_VALIDATION)
    model.eval()
    began = time.perf_counter()
    for _, (x, y) in zip(range(batches), loader):
        (model(x.to(name)).argmax(1) != y.to(name)).sum().item()
    return (time.perf_counter() - began) / (batches * PLAIN_VALIDATION)


# --- both sides ------------------------------------------------------------------------------------------------

def random_images(count: int, seed: int) -> Images:
    generator = torch.Generator().manual_seed(seed)
    return Images(torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator),
                  torch.randint(0, 10, (count,), generator=generator))


def rounds(sizes: Sizes, parent: TorchNet, proposals: Sequence[Proposal], workshop: Workshop) -> dict[str, list[float]]:
    """Seconds in every round: the plain loop per batch and per judged image of a candidate, and per batch of training
    the whole network, plainly and as train.py does."""
    name, size = workshop.device.name, sizes.batch_size
    few = PlainImages(random_images(max(size * sizes.batches, 10 * PLAIN_VALIDATION), 2))
    found = {"plain_batch": [], "plain_image": [], "plain_training": [], "training": []}
    for number in range(sizes.rounds):
        proposal = proposals[number * len(proposals) // sizes.rounds]
        keep = surgery.best_channels(filter_norms(parent, proposal.group), proposal.proposed_width)
        candidate = plainly(surgery.slice_channels(parent, {proposal.group: keep}), name)
        whole = plainly(TorchNet(parent.network, parent.widths), name)
        fast = workshop.device.place(TorchNet(parent.network, parent.widths))
        optimizer = training.sgd(fast, sizes.recipe)
        training.fit(fast, optimizer, workshop.source.batches(0, 2, number), workshop.device)  # to warm up
        for model in (candidate, whole):
            plain_training(model, few, 1, size, name)
        found["plain_batch"].append(plain_training(candidate, few, sizes.batches, size, name))
        found["plain_image"].append(plain_validation(candidate, few, 10, name))
        found["plain_training"].append(plain_training(whole, few, sizes.batches, size, name))
        began = time.perf_counter()
        training.fit(fast, optimizer, workshop.source.batches(0, 2 * sizes.batches, number), workshop.device)
        found["training"].append((time.perf_counter() - began) / (2 * sizes.batches))
    return found


def plainly(model: nn.Module, name: str) -> nn.Module:
    return model.to(name, memory_format=torch.contiguous_format)


def step_seconds(parent: TorchNet, workshop: Workshop, latency: Latency, settings: netadapt.Settings,
                 short_term_fine_tune: int, search: str, jobs: int = 1) -> float:
    """Seconds of one whole step of prune.py, with its files but without the start of the workers."""
    devices.settle(workshop.device, workshop.threads)
    with inside_a_new_folder(), contextlib.redirect_stdout(sys.stderr), crew_of(workshop, jobs) as crew:
        for folder in ("checkpoints", "history"):
            os.mkdir(folder)
        files = run_files.files_of("step")
        journal.begin(files.journal, {})
        initial_s = latency(parent.widths)
        with journal.Journal(files.journal) as log:
            run = Run(files, log, crew, halving.ladder(search, short_term_fine_tune), "ratio", LATENCY,
                      {"epoch": 0, "holdout_prop": 0.1, "flags": {}}, parent, [90.0], [initial_s])
            began = time.perf_counter()
            state = netadapt.State(parent.widths, 90.0, initial_s)
            run.adopt(next(netadapt.search(Space(parent.network), state, settings, latency, run.evaluate)))
            return time.perf_counter() - began


@contextlib.contextmanager
def inside_a_new_folder() -> Iterator[None]:
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


@contextlib.contextmanager
def crew_of(workshop: Workshop, jobs: int) -> Iterator[Crew]:
    if jobs == 1:
        yield Crew(workshop)
        return
    with Workers(jobs) as workers:
        list(workers.results(_warm_up, ({},), range(jobs)))
        yield Crew(workshop, workers)


def _warm_up(common, task) -> None:
    import utils.pruning.crew  # noqa: F401  torch takes seconds to load, once per worker
    time.sleep(0.5)


def main() -> None:
    args = get_parser().parse_args()
    network = cli.describe_or_fail(net=args.net, depth=args.depth, width=args.width)
    sizes = Sizes(args.batch_size, args.short_term_fine_tune, args.rounds, args.batches)
    table = tables.read_table(table_path(args.perf_table), network)
    device, threads = devices.pick(args.device, args.precision), torch.get_num_threads()
    devices.settle(device, threads)
    torch.manual_seed(0)
    train, held_out = (random_images(n, n).to(device.name) for n in (TRAIN, HELD_OUT))
    workshop = Workshop(training.BatchSource(train, NORMALISATION, True, args.batch_size), held_out, device,
                        sizes.recipe, threads, seed=0)
    parent = device.place(TorchNet(network, network.full_widths))
    settings = netadapt.Settings(args.pruning_fact)
    latency = Cost(pricing.priced(network, tables.prices(network, table), tables.memory_prices(network, table),
                                  table.cached_s))
    state = netadapt.State(network.full_widths, 90.0, latency(network.full_widths))
    proposals = netadapt.proposals_of_step(Space(network), state, settings, latency)
    seconds = rounds(sizes, parent, proposals, workshop)
    step = partial(step_seconds, parent, latency=latency, settings=settings,
                   short_term_fine_tune=args.short_term_fine_tune)
    steps = {search: step(workshop, search=search) for search in args.searches}
    if not args.no_workers:
        alone, search = replace(workshop, threads=1), args.searches[0]
        steps["one_worker_of_one_thread"] = step(alone, search=search)
        steps["two_workers_of_one_thread"] = step(alone, search=search, jobs=2)
    devices.settle(device, threads)
    for name, again in rounds(sizes, parent, proposals, workshop).items():
        seconds[name] += again
    found = report(sizes, seconds, steps, args.searches, len(proposals), device, threads)
    if args.json:
        print(json.dumps({"made_by": made_by(), **found}))
    else:
        print_report(network.short_name, found)


def report(sizes: Sizes, seconds: dict[str, list[float]], steps: dict[str, float], searches: Sequence[str],
           candidates: int, device: Device, threads: int) -> dict[str, Any]:
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    plain = sizes.short_term_fine_tune * middle["plain_batch"] + HELD_OUT * middle["plain_image"]
    return {"device": device.name, "precision": device.precision, "threads": threads, "candidates": candidates,
            "seconds": seconds, "plain_candidate_s": plain, "plain_step_s": plain * candidates,
            "steps_s": steps, "step_ratios": {search: plain * candidates / steps[search] for search in searches},
            "plain_images_per_s": sizes.batch_size / middle["plain_training"],
            "images_per_s": sizes.batch_size / middle["training"],
            "training_ratio": middle["plain_training"] / middle["training"]}


def print_report(name: str, found: dict[str, Any]) -> None:
    spread = {name: f"{min(v):.3g} to {max(v):.3g} s" for name, v in found["seconds"].items()}
    n, steps = found["candidates"], found["steps_s"]
    print(f"{name} on {found['device']}, {found['threads']} threads, {found['precision']}; "
          f"{n} candidates a step\n"
          f"plain candidate              {found['plain_candidate_s']:9.1f} s   (a batch {spread['plain_batch']})\n"
          f"plain step                   {found['plain_step_s']:9.1f} s\n"
          + "".join(f"--search={search:<10} a step  {steps[search]:9.1f} s   {steps[search] / n:.1f} s a candidate, "
                    f"{ratio:.1f} times as fast\n" for search, ratio in found["step_ratios"].items())
          + f"plain training               {found['plain_images_per_s']:9.1f} images/s   "
          f"(a batch {spread['plain_training']})\n"
          f"train.py                     {found['images_per_s']:9.1f} images/s   (a batch {spread['training']}), "
          f"{found['training_ratio']:.2f} times as fast")
    if "two_workers_of_one_thread" in steps:
        one, two = steps["one_worker_of_one_thread"], steps["two_workers_of_one_thread"]
        print(f"--search={next(iter(found['step_ratios']))}\n"
              f"a step by 1 worker, 1 thread {one:9.1f} s\n"
              f"by 2 workers, 1 thread each  {two:9.1f} s   {one / two:.2f} times as fast")


if __name__ == "__main__":
    cli.run(main, resumable=False)
