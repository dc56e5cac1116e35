"""Which entries the next round of few.py measures, or why there is none: pure functions of what is known (known.py).

    opening    round 1: short runs of neighbouring widths, which show the tile sizes of every operator (tiles.py)
    filling    round 2: entries that fill the plane of every operator (points.py)
    further    then: more entries where a fit predicts badly what it has not seen, the costliest operators first

A choice is {key: numbers of entries within the operator}.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Union

import numpy as np

from model.network import Widths
from utils.latency import points
from utils.latency.known import Known, Measured, Planes, shares
from utils.latency.measure import COPIES, Work
from utils.latency.points import Plane

GROWTH = 0.3  # of all entries, that a further round adds, at most
HOPELESS = 2  # rounds without a better estimate end the measurement
WORTHWHILE = 0.95  # an estimate is better if it is below this part of the best before
WORST = 3.0  # times the mean error, that one network may be off
FEWEST_NETWORKS = 12  # that the sums are fitted to, unless --calibrate asks for fewer
OF_NETWORKS = 0.5  # part of the minutes that the whole networks may take
CHECKED_AGAIN = 12  # reused entries of each table that are measured again, to see whether the machine is as fast

Choice = dict[str, np.ndarray]


@dataclass(frozen=True)
class Goal:
    max_error: float  # mean relative error of whole networks
    minutes: float

    def missed(self, expected: float, worst: float) -> float:
        """How far the errors are from the goal: 1 or less where it is met."""
        return max(expected, worst / WORST) / self.max_error


def work_ahead(planes: Planes, networks: Sequence[Widths]) -> Work:
    """About what the first two rounds measure, for an estimate of their time."""
    first = planes.first()
    filled = {key: points.more(plane, 1, first[key].tolist(), _filling(plane), 0) for key, plane in planes.of.items()}
    wanted = np.sort(np.concatenate([planes.all(first), planes.all(filled)]))
    return Work(planes.entries, wanted, networks[:FEWEST_NETWORKS], copies=1)


def how_many_networks(most: int, network_s: float, goal: Goal) -> tuple[int, int]:
    """How many whole networks are measured, and how many items there are of each. network_s: of one item, with all its
    visits."""
    affordable = OF_NETWORKS * 60 * goal.minutes / max(network_s, 1e-9)
    fewest = min(FEWEST_NETWORKS, most)
    copies = min(max(int(affordable / fewest), 1), COPIES)
    return min(max(int(affordable / copies), fewest), most), copies


def opening(planes: Planes, reused: Sequence[np.ndarray], seed: int) -> Choice:
    """The first round: what shows the tiles and is not reused, and some of what is: is the machine as fast as it was?

    reused: numbers among all entries, by the table that has them.
    """
    nothing = np.zeros(0, np.int64)
    check = [np.random.default_rng(seed).permutation(numbers)[:CHECKED_AGAIN] for numbers in reused]
    again, there = (planes.by_key(np.concatenate([nothing, *numbers])) for numbers in (check, reused))
    return {key: np.union1d(np.setdiff1d(numbers, there[key]), again[key])
            for key, numbers in planes.first().items()}


def filling(planes: Planes, measured: Measured, seed: int) -> Choice:
    """The second round; it needs fewer where entries in between are reused."""
    chosen = {}
    for key, plane in planes.of.items():
        numbers, seconds = measured[key]
        between = np.isin(np.setdiff1d(numbers, points.first(plane)), plane.all()).sum()
        tile = points.tiles_of(plane, numbers, seconds)[1]
        chosen[key] = points.more(plane, tile, numbers.tolist(), max(_filling(plane) - between, 0), seed)
    return chosen


def further(planes: Planes, known: Known, missed: Sequence[float], affordable: float, seed: int) -> Union[Choice, str]:
    """A later round, or why there is none: "max_error", "no_gain", "all" or "minutes".

    missed: how far it was from the goal (``Goal.missed``) after each round from the second on, and each time after all
    was measured again; now at the end;
    affordable: entries that can be measured in the time that is left.
    """
    if missed[-1] <= 1:
        return "max_error"
    best_before = min(missed[:-HOPELESS], default=np.inf)
    if len(missed) > HOPELESS and min(missed[-HOPELESS:]) > WORTHWHILE * best_before:
        return "no_gain"
    weight = _weights(planes, known)
    if not sum(weight.values()):
        return "all"
    count = int(min(GROWTH * sum(len(o.numbers) for o in known.operators.values()), affordable))
    return _more(planes, known, weight, count, seed) if count >= 1 else "minutes"


def _filling(plane: Plane) -> int:
    """How many entries fill it."""
    return 0 if plane.room <= points.SMALL else points.PLANE if len(plane.cin) > 1 else points.LINE


def _weights(planes: Planes, known: Known) -> dict[str, float]:
    """By how much the errors of each operator weigh in the unpruned network; only of those that have entries left."""
    share = shares(planes.network, known.table)
    return {key: share.get(key, 0.0) * float(np.abs(errors).mean()) for key, errors in known.errors.items()
            if len(errors) and planes.of[key].left(known.operators[key].numbers)}


def _more(planes: Planes, known: Known, weight: Mapping[str, float], count: int, seed: int) -> Choice:
    """About ``count`` entries, as many of each operator as it weighs."""
    chosen, total = {}, sum(weight.values())
    for key, w in weight.items():
        one = known.operators[key]
        assert one.fit
        chosen[key] = points.more(planes.of[key], one.fit.tiles[1], one.numbers.tolist(),
                                  int(np.ceil(count * w / total)), seed)
    return chosen
