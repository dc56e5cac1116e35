"""Do the fast searches of prune.py find networks as good as NetAdapt's own way (--search=full)?

    python benchmarks/search_quality.py --base_model=res-16-1 --perf_table=res-16-1-avx512 --data_loc=DIR

Prunes with each, once for every seed, with the same kernels and in coarse steps (--init_red_fact=10). Then it repeats
the steps of the first run of --repeat: the full search with two seeds, and the fast searches, judge the candidates of
the same parent. This shows how far two full searches agree that differ in their seed only. After an interruption the
same command goes on. Prints the tables of results/README.md and writes search-quality.json.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Optional

import numpy as np
from scipy.stats import spearmanr

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch

from model import surgery
from utils.common import cli, journal
from utils.common.errors import UserError
from utils.common.files import locate, write_whole
from utils.common.provenance import made_by
from utils.learning import checkpoint, data, training
from utils.learning import device as devices
from utils.learning.settings import Data, Recipe
from utils.pruning import candidates
from utils.pruning.scores import filter_norms
from utils.search import halving, netadapt
from utils.search.netadapt import Candidate, Proposal

OTHER_SEED = 1000  # of the second full run: added to the first one's
FAST = tuple(name for name in halving.SEARCHES if name != "full")


def get_parser() -> argparse.ArgumentParser:
    parser = cli.new_parser(__doc__)
    parser.add_argument("--base_model", required=True, help="trained network, as in prune.py")
    parser.add_argument("--perf_table", required=True, help="its latency table, as in prune.py")
    parser.add_argument("--data_loc", required=True, help="images, as in prune.py")
    parser.add_argument("--pruning_fact", type=cli.fraction, default=0.4, help="as in prune.py")
    parser.add_argument("--init_red_fact", type=float, default=10.0, help="as in prune.py")
    parser.add_argument("--short_term_fine_tune", type=int, default=100, help="as in prune.py")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one run each, of every search")
    parser.add_argument("--searches", nargs="+", choices=halving.SEARCHES, default=list(halving.SEARCHES),
                        help="that prune, each as often")
    parser.add_argument("--repeat", choices=halving.SEARCHES, default="full",
                        help="search of --searches whose first run's steps are repeated")
    parser.add_argument("--steps", type=int, nargs="+", help="of that run (default: all)")
    parser.add_argument("--more", type=named, nargs="*", default=[], metavar="NAME:FLAGS",
                        help="further searches, e.g. half:--layer_fraction=0.5")
    parser.add_argument("--resume", action="store_true",
                        help="go on after an interruption; so does the same command without it")
    return parser


def named(text: str) -> tuple[str, str]:
    """(name, flags) of NAME:FLAGS"""
    name, colon, flags = text.partition(":")
    if not (name and colon):
        raise argparse.ArgumentTypeError(f"expected NAME:FLAGS, found {text!r}")
    return name, flags


def main() -> None:
    args = get_parser().parse_args()
    searches = {**{name: f"--search={name}" for name in args.searches}, **dict(args.more)}
    if args.repeat not in searches:
        raise UserError(f"--repeat={args.repeat}: expected one of --searches {' '.join(args.searches)}")
    asked = [f"--{flag}={getattr(args, flag)}" for flag in ("base_model", "perf_table", "data_loc", "pruning_fact",
                                                            "init_red_fact", "short_term_fine_tune")]
    runs = {name: [pruned(name, [*flags.split(), *asked], seed) for seed in args.seeds]
            for name, flags in searches.items()}
    base_path = locate(args.base_model, "checkpoints", ".t7")
    report = {"made_by": made_by(), "flags": {k: v for k, v in vars(args).items() if k not in ("data_loc", "resume")},
              "threads": torch.get_num_threads(), "runs": runs,
              "steps": walk(base_path, args.data_loc, args.repeat, args.seeds[0], args.short_term_fine_tune,
                            args.steps)}
    for name, ends in runs.items():
        print(f"\n{name}: {spread([e['held_out_error_pct'] for e in ends])} held-out, "
              f"{spread([e['test_error_pct'] for e in ends])} test; steps {[e['steps'] for e in ends]}, "
              f"latency {[round(e['latency_s'] * 1e3, 4) for e in ends]} ms")
    for name in FAST:
        print(f"\n{agreement(report['steps'], name)}")
    write_whole(Path("search-quality.json"), json.dumps(report, indent=1))


def spread(values) -> str:
    return (f"{statistics.mean(values):.2f}% ± {statistics.stdev(values) if len(values) > 1 else 0:.2f} "
            f"({', '.join(f'{v:.2f}' for v in values)})")


def pruned(name: str, flags: Sequence[str], seed: int) -> dict:
    """Prune with this search, or resume; returns the last record of its history, with the number of steps."""
    history = Path("history") / f"quality-{name}-{seed}.jsonl"
    found = subprocess.run([sys.executable, str(ROOT / "prune.py"), f"--save_file={history.stem}", "--resume",
                            f"--seed={seed}", *flags])
    if found.returncode:
        raise UserError(f"{history.stem}: prune.py ended with exit code {found.returncode}, see above")
    found = journal.read(history)
    if found is None:
        raise UserError(f"{history}: missing, though prune.py says it has finished; remove "
                        f"checkpoints/{history.stem}.t7 to search again")
    _, records = found
    return dict(records[-1], steps=sum(r["event"] == "step" for r in records))


# --- the same step, judged again -------------------------------------------------------------------------------

def walk(base_path: Path, data_loc: str, repeat: str, seed: int, short_term_fine_tune: int,
         numbers: Optional[Sequence[int]]) -> list:
    """For the steps with these numbers (None: all) of the first run of a search: the errors by the full search, those
    with another seed, and those of the fast searches."""
    header, records = journal.read(Path(f"history/quality-{repeat}-{seed}.jsonl"))
    base = checkpoint.load(base_path)
    parent = checkpoint.build(base, base_path)
    images = data.load_for(parent.network, base_path, Data(header["flags"]["dataset"], data_loc, workers=2))
    workshop = workshop_of(base, images, header["flags"])
    parent = workshop.device.place(parent)
    other = replace(workshop, seed=workshop.seed + OTHER_SEED)
    rungs = {name: halving.ladder(name, short_term_fine_tune) for name in halving.SEARCHES}
    path = Path("search-quality.steps.jsonl")
    done = resumed(path, {"history": header, "seed": other.seed,
                          "rungs": {name: [rung.as_record() for rung in rungs[name]] for name in FAST}})
    before = workshop.error_pct(parent, workshop.held_out)
    for record in (r for r in records if r["event"] == "step"):
        step, first = record["step"], [r for r in records if r["event"] == "candidate" and r["step"] == record["step"]]
        if step not in done and (numbers is None or step in numbers):
            proposals = [proposal_of(r) for r in first]
            by = partial(climbed, parent=parent, step=step, proposals=proposals, before=before)
            full = ([r["error_pct"] for r in first] if repeat == "full" else
                    [c.error_pct for c in by(workshop, rungs=rungs["full"])[-1]])
            done[step] = {"step": step, "groups": [p.group for p in proposals],
                          "gains_s": [p.useful_s for p in proposals], "before_pct": before, "full": full,
                          "full_again": errors(by(other, rungs=rungs["full"])[-1]),
                          **{name: [errors(rung) for rung in by(workshop, rungs=rungs[name])] for name in FAST}}
            with journal.Journal(path) as log:
                log.append(done[step])
        parent, error = adopted(workshop, parent, record, rungs[repeat])
        if error != record["error_pct"]:
            print(f"step {step}: rebuilt with {error:.2f}% error, was {record['error_pct']:.2f}%")
        before = record["error_pct"]
    if not done:
        raise UserError(f"--steps: none of them is a step of history/quality-{repeat}-{seed}.jsonl")
    return [done[step] for step in sorted(done)]


def resumed(path: Path, about) -> dict:
    """{number: step} of the file, which begins with ``about``; it is begun where there is none."""
    if not path.exists():
        journal.begin(path, about)
    began, done = journal.read(path)
    if began != about:
        raise UserError(f"{path}: of another search than {about['history']['base_model']}'s with these flags; "
                        "remove it")
    return {step["step"]: step for step in done}


def workshop_of(base, images: data.Dataset, flags) -> candidates.Workshop:
    device = devices.pick("auto", flags["precision"])
    devices.settle(device, flags["threads"])
    train, held_out = data.split_holdout(images.train, flags["holdout_prop"])
    source = training.BatchSource(train.to(device.name), checkpoint.normalisation_of(base), images.flip,
                                  flags["batch_size"])
    recipe = Recipe(**{k: flags[k] for k in ("learning_rate", "momentum", "weight_decay", "batch_size")})
    return candidates.Workshop(source, held_out.to(device.name), device, recipe, flags["threads"], flags["seed"])


def proposal_of(record) -> Proposal:
    return Proposal(**{f.name: record[f.name] for f in fields(Proposal) if f.name in record})


def piece_of(parent, proposal: Proposal, progress=None) -> candidates.Piece:
    keep = surgery.best_channels(filter_norms(parent, proposal.group), proposal.proposed_width)
    return candidates.Piece(proposal.group, candidates.number_of(parent.network, proposal.group), keep, progress)


def climbed(workshop, parent, step: int, proposals, rungs, before: float) -> list:
    """For every rung, the candidates that were judged there, in the order of the proposals."""
    progress, judged = {}, []

    def judge(rung, going):
        start = before if rung.images is None else candidates.judge_parent(workshop, parent, step, rung)[0]
        pieces = tuple(piece_of(parent, p, progress.get(p.key)) for p in going)
        made = {m.key: m for m in candidates.make_candidates(workshop, parent, candidates.Order(step, rung, pieces))}
        progress.update({key: m.progress for key, m in made.items()})
        judged.append([Candidate(p, made[p.key].error_pct, made[p.key].error_pct - start) for p in going])
        return judged[-1]

    halving.climb(proposals, rungs, judge, lambda found: netadapt.rank(found, "ratio"))
    return judged


def errors(found) -> list:
    return [[c.proposal.group, c.error_pct] for c in found]


def adopted(workshop, parent, record, rungs):
    """The network after this step, made anew with its seed, and its error."""
    piece = piece_of(parent, proposal_of(record))
    (made,) = candidates.make_candidates(workshop, parent, candidates.Order(record["step"], rungs[-1], (piece,)))
    return candidates.rebuilt(parent, replace(piece, progress=made.progress), workshop.device), made.error_pct


def agreement(steps, name: str) -> str:
    """How often a fast search chose as a full run does, beside how often two full runs choose alike."""
    same, alike, within, twice, ranks, noises, lost = 0, 0, 0, 0, {"score": [], "again": []}, [], []
    for step in steps:
        gains, first = np.array(step["gains_s"]), np.array(step["full"], float)  # None: a loss that became NaN
        again, score = (np.array([dict(rung).get(g) for g in step["groups"]], float)
                        for rung in (step["full_again"], step[name][0]))
        growth = (first + again) / 2 - step["before_pct"]
        noise = float(np.sqrt(np.nanmean((first - again) ** 2)))
        finalists = {group: error for group, error in step[name][-1] if error is not None}
        chosen = min(finalists, key=lambda g: (finalists[g] - step["before_pct"]) / gains[step["groups"].index(g)])

        excess = growth - np.nanmin(growth / gains) * gains  # points of error above what the best ratio would have cost
        a, b = (int(np.nanargmin((e - step["before_pct"]) / gains)) for e in (first, again))
        d = step["groups"].index(chosen)
        same, alike = same + (d == a), alike + (a == b)
        within, twice = within + (d in (a, b) or excess[d] <= noise), twice + (excess[b] <= noise)
        noises.append(noise)
        lost.append(float(excess[d]))
        ranks["score"].append(spearmanr(score, first, nan_policy="omit").statistic)
        ranks["again"].append(spearmanr(again, first, nan_policy="omit").statistic)
    n = len(steps)
    return (f"{name}: of {n} steps, it chose the full run's group in {same}; two full runs chose alike in {alike}.\n"
            f"Its group was one of theirs or within their noise ({statistics.median(noises):.2f} points, "
            f"median) in {within}, the second full run's within it in {twice}; what its group cost above the best: "
            f"median {statistics.median(lost):.2f}, at most {max(lost):.2f} points.\n"
            f"Spearman against the full run, median over steps: the cheap score {np.median(ranks['score']):.2f}, "
            f"the second full run {np.median(ranks['again']):.2f}")


if __name__ == "__main__":
    cli.run(main)
