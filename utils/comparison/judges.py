"""Cheap judges of networks, held to the error after training from scratch.

A judge is a number per network, of which less is better: a count, a latency, an error or a loss.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Callable, Optional

from utils.comparison import ranks
from utils.search import trade

LATENCIES, NEAR = (0.4, 0.6), 0.07  # parts of the latency that are removed; a network is near them within so much
HOPELESS_PCT, CLOSE_PCT = 20.0, 1.0  # errors that are left out near a latency; how far from the best is close to it
MIXES = (0.12, 0.25)  # of the training loss and the logarithm of the parameters


@dataclass(frozen=True)
class Way:
    """How a network comes to be judged: from scratch in epochs, or from the base network's weights without any."""

    words: str
    epochs: int = 0
    batches: int = 0  # of fine-tuning
    part: float = 1.0  # of the training images


WAYS = {"recalibrated": Way("batch norms measured anew"), "fine_tuned": Way("fine-tuned, 100 batches", batches=100),
        "third": Way("1 epoch on a third", 1, part=1 / 3), "scratch_1": Way("1 epoch", 1),
        "scratch_3": Way("3 epochs", 3), "scratch_20": Way("20 epochs", 20)}
RETRAINED = "scratch_20"  # what the judges are held to


@dataclass(frozen=True)
class Row:
    """One network, brought to where it is judged."""

    network: str
    widths: list[int]  # of the list's groups
    way: str
    seed: int
    held_out_error_pct: float
    held_out_loss: float
    test_error_pct: Optional[float]  # None: not judged; a retrained network always is
    losses: list[float]  # the mean training loss of every epoch, or of the fine-tuning
    seconds: float
    machine: str

    def __post_init__(self):
        numbers = [self.held_out_error_pct, self.held_out_loss, *self.losses]
        numbers += [self.test_error_pct] if self.way == RETRAINED else []
        if self.way not in WAYS or not all(isinstance(n, (int, float)) and math.isfinite(n) for n in numbers):
            raise ValueError(f"way {self.way!r} with {numbers}")


@dataclass(frozen=True)
class Net:
    """What is known of a network."""

    removed: float  # part of the latency
    parameters: int
    macs: int
    latency_s: float
    rows: Mapping[str, Row]  # {way: the row of the lowest seed}
    errors_pct: Sequence[float]  # after retraining, with every seed

    @property
    def error_pct(self) -> float:
        return sum(self.errors_pct) / len(self.errors_pct)


Judge = Callable[[Net], float]

TARGETS: dict[str, Callable[[Row], float]] = {  # of a retrained network, by its images
    "both": lambda row: (row.held_out_error_pct + (row.test_error_pct or 0)) / 2,
    "held_out": lambda row: row.held_out_error_pct, "test": lambda row: row.test_error_pct or 0}


def judges() -> dict[str, Judge]:
    found: dict[str, Judge] = {
        "parameters": lambda net: -net.parameters, "MACs": lambda net: -net.macs,
        "ln(parameters) + ln(MACs)": lambda net: -math.log(net.parameters) - math.log(net.macs),
        "latency, the slowest first": lambda net: -net.latency_s}
    for name, way in WAYS.items():
        if name != RETRAINED:
            found.update({f"{way.words}: {words}": judge for words, judge in _after(name, way)})
    return found


def _after(name: str, way: Way) -> list[tuple[str, Judge]]:
    """The judges of a short training."""
    found: list[tuple[str, Judge]] = [("held-out error", lambda net: net.rows[name].held_out_error_pct),
                                      ("held-out loss", lambda net: net.rows[name].held_out_loss)]
    if way.epochs or way.batches:
        found.append(("training loss", lambda net: net.rows[name].losses[-1]))
    if way.epochs > 1:
        found.append(("sum of training losses", lambda net: sum(net.rows[name].losses)))
    return found + [(f"training loss − {a:g} ln(parameters)", _mixed(name, a)) for a in MIXES if way.epochs]


def _mixed(name: str, a: float) -> Judge:
    return lambda net: net.rows[name].losses[-1] - a * math.log(net.parameters)


def is_near(net: Net, removed: float) -> bool:
    return abs(net.removed - removed) < NEAR


# --- the report ------------------------------------------------------------------------------------------------

def table(nets: Sequence[Net]) -> str:
    """Markdown: every judge's rank correlation with the retrained error, how much better it is than the parameters'
    (intervals alone), and how much worse than the best network the choice is that it makes near a latency."""
    parts = {"all": nets, **{f"{r:.0%} removed": hopeful(nets, r) for r in LATENCIES}}
    every = judges()
    lines = ["| judge | " + " | ".join(f"{part}: {len(of)}" for part, of in parts.items()) + " | all, minus the "
             "parameters' | " + " | ".join(f"choice at {r:.0%}" for r in LATENCIES) + " |",
             "|---|" + "---:|" * (2 * len(parts))]
    errors = {part: [n.error_pct for n in of] for part, of in parts.items()}
    for words, judge in every.items():
        found = {part: [judge(n) for n in of] for part, of in parts.items()}
        low, high = ranks.advantage(found["all"], [every["parameters"](n) for n in nets], errors["all"])
        cells = [*(_correlation(found[part], errors[part]) for part in parts),
                 f"{low:+.2f} to {high:+.2f}".replace("-", "−") if words != "parameters" else "",
                 *(f"+{ranks.cost_of_choice(found[part], errors[part]):.2f}" if found[part] else ""
                   for part in list(parts)[1:])]
        lines.append(f"| {words} | {' | '.join(cells)} |")
    return "\n".join(lines)


def hopeful(nets: Sequence[Net], removed: float) -> list[Net]:
    """Those near a latency that are no hopeless ones."""
    return [net for net in nets if is_near(net, removed) and net.error_pct < HOPELESS_PCT]


def _correlation(values: Sequence[float], errors: Sequence[float]) -> str:
    if len(values) < 3:
        return ""
    low, high = ranks.interval(values, errors)
    return f"{ranks.spearman(values, errors):.2f} ({low:.2f} to {high:.2f})".replace("-", "−")


def close_calls(nets: Sequence[Net], removed: float, way: str) -> str:
    """Whether the training loss adds to the parameters among the networks that are close to the best."""
    nets = hopeful(nets, removed)
    of = [n for n in nets if n.error_pct <= min(m.error_pct for m in nets) + CLOSE_PCT]
    words = f"{removed:.0%} removed, within {CLOSE_PCT:g} point of the best: {len(of)} networks"
    if len(of) < 3:
        return words
    loss, parameters, errors = [n.rows[way].losses[-1] for n in of], [-n.parameters for n in of], [
        n.error_pct for n in of]
    right, wrong = ranks.contested(loss, parameters, errors)
    return (f"{words}. Correlation of the parameters {_correlation(parameters, errors)}, of the training loss of "
            f"{WAYS[way].words} {_correlation(loss, errors)}, of the loss with the parameters known "
            f"{ranks.partial(loss, errors, parameters):.2f}. Of the pairs that both order differently, the loss is "
            f"right in {right}, the parameters in {wrong}")


def glance(nets: Sequence[Net], removed: float) -> str:
    """What --method=trade loses where only the best after a third of the images get three epochs: of every choice of
    trade.JUDGED networks near a latency."""
    nets = hopeful(nets, removed)
    first, last = ([n.rows[way].losses[-1] - capacity * math.log(n.parameters) for n in nets]
                   for way, capacity in (("third", trade.FIRST_CAPACITY), ("scratch_3", trade.CAPACITY)))
    draws = [sorted(drawn, key=first.__getitem__) for drawn in combinations(range(len(nets)), trade.JUDGED)]
    words = f"{removed:.0%} removed: a first glance at {trade.JUDGED} networks leaves {trade.FINALISTS}"
    if not draws:
        return f"{words}; there are {len(nets)} networks"
    quick, slow = ([min(some, key=last.__getitem__) for some in found]
                   for found in ([drawn[:trade.FINALISTS] for drawn in draws], draws))
    best = [min(nets[i].error_pct for i in drawn) for drawn in draws]
    lost = [sum(nets[i].error_pct - b for i, b in zip(chosen, best)) / len(draws) for chosen in (quick, slow)]
    same = sum(a == b for a, b in zip(quick, slow)) / len(draws)
    return (f"{words}. Of {len(draws):,} choices, {same:.1%} end with the same network as without. The network is "
            f"worse than the best by {lost[0]:.3f} points (mean), without a glance by {lost[1]:.3f}")


def spread(nets: Sequence[Net]) -> str:
    """How far retrainings of a network with other seeds are apart."""
    twice = [net.errors_pct for net in nets if len(net.errors_pct) > 1]
    if not twice:
        return "every network was retrained with one seed"
    variances = [sum((e - sum(es) / len(es)) ** 2 for e in es) / (len(es) - 1) for es in twice]
    return (f"{len(twice)} of {len(nets)} networks were retrained with several seeds; deviation of one retraining: "
            f"{(sum(variances) / len(variances)) ** 0.5:.2f} points")
