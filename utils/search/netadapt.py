"""The NetAdapt algorithm alone (arXiv 1804.03230, section 3): schedule, proposals, choice.

It sees a network's description and two callables, and knows nothing of torch, files or data:

    latency(widths) -> seconds per inference; a Cost of layers (costs.py) is quick for many widths of a group, too
    evaluate(step, proposals) -> the candidates to choose from: proposals with their errors, after whatever
                                 fine-tuning the caller gives; NaN drops a candidate
"""

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Callable, Optional

from model.network import Widths
from utils.common.errors import UserError
from utils.search.costs import Latency, costs_along, unit_of
from utils.search.space import Space

Key = tuple[str, int]  # a group and its proposed width, which identify a candidate of a step

STEEPER = 1.5  # a latency step gains so many times as much per channel


class NoWayOn(UserError):
    """No proposal gains what a step asks for, or no candidate is left to choose."""


def out_of_reach(method: str, latency: Latency, widths: Widths, budget_s: float, besides: str = "") -> NoWayOn:
    """The error for a budget that these widths, the least costly, do not meet; besides: another flag to lower."""
    short = unit_of(latency).short
    return NoWayOn(f"--method={method}: the least {unit_of(latency).quantity} is {short(latency(widths))}, asked for "
                   f"{short(budget_s)}; lower --pruning_fact{f' or {besides}' if besides else ''}")


@dataclass(frozen=True)
class Settings:
    pruning_fact: float  # part of the initial latency that has to go, in (0, 1)
    init_red_fact: float = 20.0  # the first step has to gain pruning_fact * initial / init_red_fact
    decay_rate: float = 0.98  # the gain asked for is multiplied by it after every step
    allow_small_prunings: bool = False  # a block may be removed even if it gains less than asked
    criterion: str = "ratio"  # one of CRITERIA
    reach: float = 1.0  # a proposal may gain up to so many times what is asked for, to end at a latency step
    removals: str = "last"  # one of REMOVALS
    layer_fraction: float = 1.0  # part of a step's proposals that is tried, drawn at random
    seed: int = 0  # of that draw


@dataclass(frozen=True)
class Proposal:
    group: str
    width: int
    proposed_width: int
    gain_s: float
    missing_s: float = math.inf  # what the search still has to gain: beyond it a gain is worth nothing

    @property
    def key(self) -> Key:
        return self.group, self.proposed_width

    @property
    def useful_s(self) -> float:
        return min(self.gain_s, self.missing_s)

    @property
    def per_channel_s(self) -> float:
        return self.gain_s / (self.width - self.proposed_width)


@dataclass(frozen=True)
class Candidate:
    proposal: Proposal
    error_pct: float
    growth_pct: float  # of the error over the network before the step
    loss: float = math.nan  # cross entropy, on the same images
    loss_growth: float = math.nan

    @property
    def ratio(self) -> float:
        """Error growth, in %, per useful second gained."""
        return self.growth_pct / self.proposal.useful_s

    @property
    def loss_ratio(self) -> float:
        """Loss growth per useful second gained."""
        return self.loss_growth / self.proposal.useful_s


CRITERIA: dict[str, Callable[[Candidate], float]] = {  # the chosen candidate has the least
    "ratio": lambda candidate: candidate.ratio,  # error growth per second gained
    "loss": lambda candidate: candidate.loss_ratio,  # loss growth per second gained: less coarse on few images
    "error": lambda candidate: candidate.error_pct,  # the NetAdapt paper's
}


REMOVALS = ("last",  # a block's branch is removed only if no narrower width gains enough, NetAdapt's own rule
            "always")  # every step also tries every block without its branch, if that gains enough


@dataclass(frozen=True)
class State:
    """Where the search stands: after ``step`` steps the network has these widths, and this error."""

    widths: dict[str, int]
    error_pct: float
    initial_s: float
    step: int = 0


@dataclass(frozen=True)
class Step:
    state: State  # after the step
    latency_s: float
    target_gain_s: float
    chosen: Candidate
    left_out: tuple[Proposal, ...] = ()  # not drawn (Settings.layer_fraction)


def target_gain_s(settings: Settings, initial_s: float, step: int) -> float:
    """Seconds that step number ``step`` (from 1) has to gain (section 3.2, the schedule of resource reduction)."""
    return settings.pruning_fact * initial_s / settings.init_red_fact * settings.decay_rate ** (step - 1)


def missing_gain_s(settings: Settings, state: State, latency: Latency) -> float:
    """Seconds that the steps after ``state`` have to gain together; at the end of a search 0."""
    return max(latency(state.widths) - budget_s(settings, state.initial_s), 0.0)


def asked_gain_s(settings: Settings, state: State, latency: Latency) -> float:
    """Seconds that the step after ``state`` has to gain: the schedule's, but at most what is missing."""
    return min(target_gain_s(settings, state.initial_s, state.step + 1), missing_gain_s(settings, state, latency))


def budget_s(settings: Settings, initial_s: float) -> float:
    """Seconds at which the search ends."""
    return (1 - settings.pruning_fact) * initial_s


def propose(space: Space, widths: Widths, group: str, latency: Latency, target_s: float, allow_small: bool,
            reach: float = 1.0) -> Optional[Proposal]:
    """The largest width of ``group`` whose gain exceeds ``target_s`` (section 3.2), or None.

    Latency has steps: the channel at the end of one may gain as much as ten others. So a smaller width is proposed
    instead if it gains at most ``reach`` times the target, and at least STEEPER times as much per channel. If no width
    above 0 gains enough, a removable group may go to 0. A gain is always latency(before) - latency(after).
    """
    before, width = latency(widths), widths[group]
    choices, found = space.narrower(width), []
    for proposed, after in zip(choices, costs_along(latency, widths, group, choices).tolist()):
        gain = before - after
        if gain > target_s and (not found or gain <= reach * target_s):
            found.append(Proposal(group, width, proposed, gain))
            if reach <= 1:
                break
    if found:
        steepest = max(found, key=lambda p: p.per_channel_s)
        return steepest if steepest.per_channel_s >= STEEPER * found[0].per_channel_s else found[0]
    return removal(space, widths, group, latency, target_s, allow_small)


def removal(space: Space, widths: Widths, group: str, latency: Latency, target_s: float,
            allow_small: bool) -> Optional[Proposal]:
    """A removable group at width 0, if that gains more than ``target_s``, or with ``allow_small`` more than nothing."""
    without = {**widths, group: 0}
    if not space.group[group].removable or not widths[group] or not space.lives(without):
        return None
    gain = latency(widths) - latency(without)
    return Proposal(group, widths[group], 0, gain) if gain > (0 if allow_small else target_s) else None


def proposals(space: Space, widths: Widths, latency: Latency, target_s: float, allow_small: bool,
              reach: float = 1.0) -> list[tuple[str, Optional[Proposal]]]:
    """(group, its proposal or None) for every prunable group, in the network's order."""
    return [(g.name, propose(space, widths, g.name, latency, target_s, allow_small, reach))
            for g in space.groups if g.prunable]


def removals(space: Space, widths: Widths, narrower: Sequence[tuple[str, Optional[Proposal]]], latency: Latency,
             target_s: float, settings: Settings) -> dict[str, Proposal]:
    """{group: its removal}, for groups whose removal is tried beside a narrower width (Settings.removals)."""
    if settings.removals == "last":
        return {}
    found = {group: removal(space, widths, group, latency, target_s, settings.allow_small_prunings)
             for group, one in narrower if one and one.proposed_width}
    return {group: p for group, p in found.items() if p}


def proposals_of_step(space: Space, state: State, settings: Settings, latency: Latency) -> list[Proposal]:
    """The proposals of the step after ``state``. Raises NoWayOn if no group can gain enough.

    The removal of a branch may be tried beside a narrower width: even a narrow branch pays for its invocations.
    """
    target_s, missing_s = asked_gain_s(settings, state, latency), missing_gain_s(settings, state, latency)
    narrower = proposals(space, state.widths, latency, target_s, settings.allow_small_prunings, settings.reach)
    besides = removals(space, state.widths, narrower, latency, target_s, settings)
    found = [replace(p, missing_s=missing_s) for group, one in narrower for p in (one, besides.get(group)) if p]
    if not found:
        short = unit_of(latency).short
        raise NoWayOn(f"step {state.step + 1}: no layer can gain {short(target_s)} of the "
                      f"{short(latency(state.widths))} that are left; raise --init_red_fact, lower "
                      "--pruning_fact or try --allow_small_prunings")
    return found


def drawn(found: Sequence[Proposal], settings: Settings, step: int) -> list[Proposal]:
    """``layer_fraction`` of a step's proposals, at least one, in their order; the same ones for the same seed."""
    count = max(round(settings.layer_fraction * len(found)), 1)
    chosen = random.Random(f"{settings.seed} {step}").sample(range(len(found)), count)
    return [found[i] for i in sorted(chosen)]


def rank(candidates: Iterable[Candidate], criterion: str) -> list[Candidate]:
    """Best first, without those whose error is NaN; of equals, the one that gains more first."""
    cost = CRITERIA[criterion]
    valid = [c for c in candidates if math.isfinite(c.error_pct) and math.isfinite(cost(c))]
    return sorted(valid, key=lambda c: (cost(c), -c.proposal.gain_s))


def search(space: Space, state: State, settings: Settings, latency: Latency,
           evaluate: Callable[[int, Sequence[Proposal]], Iterable[Candidate]]) -> Iterator[Step]:
    """Yield every step until the latency is at most (1 - pruning_fact) of the initial one.

    The caller adopts ``step.chosen`` before it asks for the next step. Raises NoWayOn when no group can gain what
    a step asks for, or every candidate's error is NaN.
    """
    while latency(state.widths) > budget_s(settings, state.initial_s):
        number = state.step + 1
        found = proposals_of_step(space, state, settings, latency)
        tried = drawn(found, settings, number)
        ranked = rank(evaluate(number, tried), settings.criterion)
        if not ranked:
            raise NoWayOn(f"step {number}: the loss of every candidate became NaN; lower --learning_rate")
        chosen = ranked[0]
        asked_s = asked_gain_s(settings, state, latency)
        widths = {**state.widths, chosen.proposal.group: chosen.proposal.proposed_width}
        state = replace(state, widths=widths, error_pct=chosen.error_pct, step=number)
        yield Step(state, latency(widths), asked_s, chosen, tuple(p for p in found if p not in tried))
