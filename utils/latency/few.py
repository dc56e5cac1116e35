"""A table from few, well placed entries, measured in rounds until its predictions of whole networks are good enough.

    round 1   short runs of neighbouring widths, which show the tile sizes of every operator (tiles.py, points.py)
    round 2   entries that fill the plane of every operator, and the whole networks that the sums are fitted to
    then      more entries where entries that a fit has not seen are predicted badly, the costliest operators first

After every round from the second on, the error of whole networks is estimated by cross-validation: a correction is
fitted to a part of them and judged on the rest. The rounds end below ``Goal.max_error`` (and three times as much for
every single network), when ``Goal.minutes`` are used up, or when further entries do not help any more.

The journal has what was chosen, so that a resumed measurement goes on with the same choice:

    {"reused": {"FC": [[3, 10, 4.1e-05], ...]}}          entries of other tables, with their seconds
    {"networks": 30, "copies": 3}                        how many whole networks there are, and items of each
    {"round": 3, "entries": {"FC": [[3, 10], ...]}, "expected": 0.031, "worst": 0.08}    errors expected before it
    {"stopped": "max_error", "max_error": 0.02, "minutes": 10.0}
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Optional

import numpy as np

from model.network import Network, Widths
from utils.common.errors import UserError
from utils.common.journal import Journal, Record
from utils.latency import correction, large, measure, points
from utils.latency import fit as fitting
from utils.latency.entries import Entries
from utils.latency.large import Operator
from utils.latency.measure import Begun, Source, Work
from utils.latency.note import alike
from utils.latency.points import Plane
from utils.latency.runners import Runner, patiently
from utils.latency.tables import latency_s
from utils.latency.timing import Care

NAME = "few points"  # of this way, in headers
PATIENCE = 0.05  # part of the minutes that may be waited for a machine as fast as usual
FOLDS = 5  # of the judging of entries
GROWTH = 0.3  # of all entries, that a further round adds, at most
HOPELESS = 2  # rounds without a better estimate end the measurement
WORTHWHILE = 0.95  # an estimate is better if it is below this part of the best before
FEWEST_NETWORKS = 12  # that the sums are fitted to, unless --calibrate asks for fewer
OF_NETWORKS = 0.4  # part of the minutes that the whole networks may take
AVERAGE = 0.6  # of the unpruned network's time that a random one takes, about
VISITS = 1.3  # times the passes: visits of an item, about
WORST = 3.0  # times the mean error, that one network may be off
RESERVE = 0.92  # part of the minutes in which everything is measured; the rest is for fits and files
CHECKED_AGAIN = 12  # reused entries that are measured again, to see whether the machine is as fast
TIMED = 16  # entries from which the time of all is estimated


@dataclass(frozen=True)
class Goal:
    max_error: float  # mean relative error of whole networks
    minutes: float

    def missed(self, expected: float, worst: float) -> float:
        """How far the errors are from the goal: 1 or less where it is met."""
        return max(expected, worst / WORST) / self.max_error


@dataclass(frozen=True)
class Known:
    """What the measurement has found so far."""

    operators: Mapping[str, Operator]
    table: Mapping[str, np.ndarray]  # seconds of every entry, as they give it
    errors: Mapping[str, np.ndarray]  # of the entries of each that fill its plane, predicted without them
    expected: Optional[float]  # mean relative error of whole networks; None: not known yet
    worst: Optional[float]  # of one of them

    def about(self) -> dict[str, Any]:
        """For the note."""
        errors = np.concatenate([np.abs(e) for e in self.errors.values()] or [np.zeros(0)])
        held: Record = {"entries": len(errors)}
        if len(errors):
            held.update(median=round(float(np.median(errors)), 4), p95=round(float(np.quantile(errors, 0.95)), 4))
        return {"measured": sum(len(o.numbers) for o in self.operators.values()),
                "of": sum(len(o.cin) * len(o.cout) for o in self.operators.values()), "error_on_held_out": held,
                "expected_error": _rounded(self.expected), "expected_worst": _rounded(self.worst),
                "tiles": {key: list(o.fit.tiles) for key, o in self.operators.items() if o.fit}}


@dataclass(frozen=True)
class Planes:
    """The operators of a network, and where the entries of each stand among all."""

    network: Network
    multiple_of: int = 1

    @cached_property
    def entries(self) -> Entries:
        return Entries(self.network)

    @cached_property
    def of(self) -> dict[str, Plane]:
        return {t.key: Plane(t, self.multiple_of) for t in self.entries.tables}

    @cached_property
    def start(self) -> dict[str, int]:
        return {t.key: int(s) for t, s in zip(self.entries.tables, self.entries.starts)}

    def all(self, by_key: Mapping[str, np.ndarray]) -> np.ndarray:
        """Numbers among all entries, from numbers within each operator."""
        return np.concatenate([np.zeros(0, np.int64), *(numbers + self.start[key] for key, numbers in by_key.items())])

    def labels(self, by_key: Mapping[str, np.ndarray]) -> dict[str, list[list[int]]]:
        """{key: [[cin, cout], ...]}, for the journal."""
        return {key: [list(map(int, self.of[key].table.entry(int(n)))) for n in numbers]
                for key, numbers in by_key.items() if len(numbers)}

    def first(self) -> dict[str, np.ndarray]:
        return {key: points.first(plane) for key, plane in self.of.items()}


def work_ahead(planes: Planes, networks: Sequence[Widths]) -> Work:
    """About what the first two rounds measure, for an estimate of their time."""
    first = planes.first()
    filling = {key: points.more(plane, 1, first[key].tolist(), _filling(plane), 0)
               for key, plane in planes.of.items()}
    wanted = np.sort(np.concatenate([planes.all(first), planes.all(filling)]))
    return Work(planes.entries, wanted, networks[:FEWEST_NETWORKS], copies=1)


def _filling(plane: Plane) -> int:
    return 0 if plane.room <= points.SMALL else points.PLANE if len(plane.cin) > 1 else points.LINE


# --- the journal -----------------------------------------------------------------------------------------------

def noted(calibrating: Sequence[Widths]) -> measure.Noted:
    """What reads the lines of this file from a journal. calibrating: the networks that there can be."""
    def read(begun: Begun, record: Record) -> bool:
        try:
            if "networks" in record:
                begun.grow(replace(begun.work, networks=calibrating[:int(record["networks"])],
                                   copies=int(record["copies"])))
            elif "round" in record:
                begun.grow(begun.work.with_more(_numbers(begun.work.entries, record["entries"])))
            elif "reused" in record:
                _numbers(begun.work.entries, record["reused"])
            elif "stopped" not in record:
                return False
        except (KeyError, TypeError, ValueError, AttributeError):
            return False
        begun.notes.append(record)
        return True
    return read


def _numbers(entries: Entries, labels: Mapping[str, Sequence[Sequence[Any]]]) -> np.ndarray:
    return np.array([entries.number(key, cin, cout) for key, found in labels.items() for cin, cout, *_ in found],
                    np.int64)


# --- the rounds ------------------------------------------------------------------------------------------------

@dataclass
class Measurement:
    """A measurement in rounds that goes on; ``begun`` has all that it knows."""

    begun: Begun
    care: Care
    goal: Goal
    calibrating: Sequence[Widths]  # networks that the sums can be fitted to, the unpruned one first
    source: Source
    runner: Runner
    log: Journal
    multiple_of: int = 1
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self.planes = Planes(self.begun.work.entries.network, self.multiple_of)
        self._began = self.clock() - self.begun.visits.elapsed_s

    def run(self, reused: Mapping[int, float]) -> tuple[Known, str]:
        """Measure until it is enough. reused: seconds by number of entries that other tables have.

        Returns what is known and why it ended: "max_error", "minutes", "no_gain" or "all" where all is measured. Raises
        UserError where the minutes are too few.
        """
        done = self.begun.notes[-1] if self.begun.notes else {}
        if done.get("stopped") and (done["max_error"], done["minutes"]) == (self.goal.max_error, self.goal.minutes):
            return self.known(), done["stopped"]
        session = measure.session(self.source, self.runner, self.care, self.begun, self.log, self._enough)
        if not any("networks" in record for record in self.begun.notes):
            self._begin(reused)
        if self.rounds:
            session.run(self._title(len(self.rounds)), self._items_of_round())
            self._look_at_speed()
        while True:
            known = self.known() if len(self.rounds) > 1 else None
            chosen = self._next(known)
            if isinstance(chosen, str):
                self._note({"stopped": chosen, "max_error": self.goal.max_error, "minutes": self.goal.minutes})
                return known or self.known(), chosen
            self._note({"round": len(self.rounds) + 1, "entries": self.planes.labels(chosen),
                        **({"expected": known.expected, "worst": known.worst} if known else {})})
            session.run(self._title(len(self.rounds)), self._items_of_round())
            self._look_at_speed()

    @property
    def rounds(self) -> list[Record]:
        return [r for r in self.begun.notes if "round" in r]

    @property
    def missed(self) -> list[float]:
        """How far it was from the goal after each round from the second on, but for the last."""
        return [self.goal.missed(r["expected"], r["worst"]) for r in self.rounds if "expected" in r]

    def _note(self, record: Record) -> None:
        if not noted(self.calibrating)(self.begun, record):
            raise AssertionError(record)
        self.log.append(record)

    def _elapsed_s(self) -> float:
        return self.clock() - self._began

    def _left_s(self) -> float:
        return RESERVE * 60 * self.goal.minutes - self._elapsed_s()

    def _enough(self) -> bool:
        return self._left_s() < 0

    def _title(self, number: int) -> str:
        return f"round {number}, {'tile sizes' if number == 1 else 'widths between them'}"

    def _items_of_round(self) -> np.ndarray:
        """Those of the last round, and from the second round on the networks."""
        work = self.begun.work
        count = sum(map(len, self.rounds[-1]["entries"].values()))
        networks = np.arange(work.first_entry if len(self.rounds) > 1 else 0)
        return np.concatenate([networks, np.arange(len(work) - count, len(work))])

    def _begin(self, reused: Mapping[int, float]) -> None:
        """Choose how many whole networks there are; see whether the time is enough."""
        ahead = work_ahead(self.planes, self.calibrating)
        wanted = np.setdiff1d(ahead.wanted, list(reused))
        random = np.random.default_rng(self.care.seed)
        some = random.choice(wanted, min(TIMED, len(wanted)), replace=False)
        entry_s = np.mean([self._visit_s(self.source.entry(*self.planes.entries[int(n)])) for n in some] or [0.0])
        visits, count, copies = VISITS * self.care.passes, 0, measure.COPIES
        seconds = visits * entry_s * len(wanted)
        if self.calibrating:
            network_s = visits * AVERAGE * self._visit_s(self.source.network(self.planes.network, self.calibrating[0]))
            affordable = OF_NETWORKS * 60 * self.goal.minutes / max(network_s, 1e-9)
            fewest = min(FEWEST_NETWORKS, len(self.calibrating))
            copies = min(max(int(affordable / fewest), 1), measure.COPIES)
            count = min(max(int(affordable / copies), fewest), len(self.calibrating))
            seconds += network_s * fewest
        if seconds > 60 * RESERVE * self.goal.minutes:
            needed = np.ceil(seconds / RESERVE / 6) / 10
            raise UserError(f"--minutes={self.goal.minutes:g}: a fit of this network needs {len(wanted):,} entries and "
                            f"{min(FEWEST_NETWORKS, count)} whole networks, which take about {needed:g} minutes here; "
                            f"expected --minutes={needed:g} or more")
        if reused and not self.begun.notes:
            by_key: dict[str, list[list[Any]]] = {}
            for number, value in sorted(reused.items()):
                table, cin, cout = self.planes.entries[number]
                by_key.setdefault(table.key, []).append([cin, cout, value])
            self._note({"reused": by_key})
        self._note({"networks": count, "copies": copies})

    def _visit_s(self, model) -> float:
        began = self.clock()
        patiently(lambda: model, self.runner, "an entry")(self.care.runs)
        return self.clock() - began

    # --- what is known -----------------------------------------------------------------------------------------

    def _measured(self) -> dict[int, float]:
        """Seconds by number of every entry; reused ones at the machine's present speed."""
        now, reused = self._now(), self._reused
        ratio = slower(now, reused)
        return {**{n: ratio * s for n, s in reused.items()}, **now}

    def _now(self) -> dict[int, float]:
        """Seconds by number of what this measurement has measured itself."""
        _, seconds = self.begun.work.split(self.begun.visits.result(self.care))
        return {int(n): float(s) for n, s in zip(self.begun.work.wanted, seconds) if np.isfinite(s)}

    @property
    def _reused(self) -> dict[int, float]:
        """Seconds by number, as the other tables have them."""
        return {n: s for record in self.begun.notes if "reused" in record
                for n, s in zip(_numbers(self.planes.entries, record["reused"]).tolist(),
                                (e[2] for found in record["reused"].values() for e in found))}

    def _look_at_speed(self) -> None:
        """Raises UserError where the reused entries must be of another machine."""
        ratio = slower(self._now(), self._reused)
        if not alike(ratio):
            raise UserError(f"--reuse: the entries of these tables take {ratio:.2f} times as long now: another "
                            "machine, or a busy one; leave --reuse out, or measure when the machine is quiet")

    def by_key(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Numbers within each operator, ascending, and their seconds."""
        measured = self._measured()
        numbers = np.array(sorted(measured), np.int64)
        seconds = np.array([measured[n] for n in numbers.tolist()])
        which = self.planes.entries.table_of(numbers)
        return {key: (numbers[which == i] - self.planes.start[key], seconds[which == i])
                for i, key in enumerate(self.planes.of)}

    def known(self) -> Known:
        found = self.by_key()
        empty = [key for key, (numbers, _) in found.items() if not len(numbers)]
        if empty:
            raise UserError(f"--minutes={self.goal.minutes:g}: they ended before {empty[0]} was measured; go on with "
                            "--resume and more --minutes")
        operators = {key: large.operator(self.planes.of[key], *of) for key, of in found.items()}
        errors = {key: _judged(self.planes.of[key], one) for key, one in operators.items() if one.fit}
        table = large.arrays(operators)
        return Known(operators, table, errors, *self._expected(table, errors))

    def networks(self) -> tuple[list[Widths], np.ndarray]:
        """The widths and seconds of the whole networks that were measured."""
        seconds, _ = self.begun.work.split(self.begun.visits.result(self.care))
        lowest = seconds.min(1) if seconds.size else np.zeros(0)
        here = np.isfinite(lowest)
        return [w for w, measured in zip(self.begun.work.networks, here) if measured], lowest[here]

    def _expected(self, table: Mapping[str, np.ndarray],
                  errors: Mapping[str, np.ndarray]) -> tuple[Optional[float], Optional[float]]:
        """Mean and largest error of whole networks. Without any, as if the errors of all entries of an operator went
        one way. None where the time ended before there was anything to tell it from."""
        widths, seconds = self.networks()
        if len(widths) >= correction.ENOUGH:
            found = correction.cross_validated(self.planes.network, widths, seconds, table)
            return float(found.mean()), float(found.max())
        if not all(map(len, errors.values())):
            return None, None
        share = _shares(self.planes.network, table)
        mean = sum(share.get(key, 0.0) * float(np.abs(found).mean()) for key, found in errors.items())
        return mean, mean

    def about(self) -> Record:
        """For the note, beside what is known."""
        reused = sum(len(found) for r in self.begun.notes if "reused" in r for found in r["reused"].values())
        return {"rounds": len(self.rounds), "networks": len(self.networks()[0]), "reused": reused}

    # --- what is measured next ---------------------------------------------------------------------------------

    def _next(self, known: Optional[Known]) -> Any:
        """The numbers of the next entries within each operator, or why there are none."""
        if self._enough():
            return "minutes"
        if known is None:
            return self._opening()
        if known.expected is None or known.worst is None:
            return "minutes"
        history = [*self.missed, self.goal.missed(known.expected, known.worst)]
        if history[-1] <= 1:
            return "max_error"
        best_before = min(history[:-HOPELESS], default=np.inf)
        if len(history) > HOPELESS and min(history[-HOPELESS:]) > WORTHWHILE * best_before:
            return "no_gain"
        return self._where_it_is_bad(known)

    def _opening(self) -> dict[str, np.ndarray]:
        """Of the first two rounds."""
        measured = self.by_key()
        found = {key: numbers for key, (numbers, _) in measured.items()}
        if not self.rounds:
            chosen = {key: np.setdiff1d(numbers, found[key]) for key, numbers in self.planes.first().items()}
            return self._with_checks(chosen, found)
        chosen = {}
        for key, plane in self.planes.of.items():
            tile = points.tiles_of(plane, *measured[key])[1]
            between = len(np.setdiff1d(found[key], points.first(plane)))
            chosen[key] = points.more(plane, tile, found[key].tolist(), max(_filling(plane) - between, 0),
                                      self.care.seed)
        return chosen

    def _with_checks(self, chosen: dict[str, np.ndarray], reused: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """With some of the reused entries, to see whether the machine is as fast as it was."""
        numbers = self.planes.all(reused)
        again = np.random.default_rng(self.care.seed).permutation(numbers)[:CHECKED_AGAIN]
        which = self.planes.entries.table_of(again)
        return {key: np.union1d(chosen[key], again[which == i] - self.planes.start[key])
                for i, key in enumerate(self.planes.of)}

    def _where_it_is_bad(self, known: Known) -> Any:
        """More entries of the operators whose errors weigh most in the unpruned network."""
        room = {key: plane.room - len(known.operators[key].numbers) for key, plane in self.planes.of.items()}
        share = _shares(self.planes.network, known.table)
        weight = {key: share.get(key, 0.0) * float(np.abs(known.errors[key]).mean()) for key in known.errors
                  if len(known.errors[key]) and room[key]}
        total = sum(weight.values())
        measured = sum(len(o.numbers) for o in known.operators.values())
        visit_s = self._elapsed_s() / max(int(self.begun.visits.count.sum()), 1)
        affordable = self._left_s() / max(VISITS * self.care.passes * visit_s, 1e-9)
        count = int(min(GROWTH * measured, affordable))
        if not total:
            return "all"
        if count < 1:
            return "minutes"
        chosen = {}
        for key, w in weight.items():
            one = known.operators[key]
            assert one.fit
            chosen[key] = points.more(self.planes.of[key], one.fit.tiles[1], one.numbers.tolist(),
                                      int(np.ceil(count * w / total)), self.care.seed)
        return chosen


def slower(now: Mapping[int, float], then: Mapping[int, float]) -> float:
    """By how much the machine is slower now: the median of the entries that both have; 1 without any."""
    both = sorted(set(now) & set(then))
    return float(np.median([now[n] / then[n] for n in both])) if both else 1.0


def _rounded(error: Optional[float]) -> Optional[float]:
    return None if error is None else round(error, 4)


def _judged(plane: Plane, one: Operator) -> np.ndarray:
    """Errors, in log seconds, of the entries that fill the plane, each predicted by a fit to four fifths of the others.
    """
    assert one.fit
    filling = np.flatnonzero(~np.isin(one.numbers, points.first(plane)))
    cin, cout = plane.channels(one.numbers)
    errors = np.zeros(len(filling))
    for fold in range(min(FOLDS, len(filling))):
        out = filling[fold::FOLDS]
        rest = np.setdiff1d(np.arange(len(one.numbers)), out)
        fit = fitting.fit(cin[rest], cout[rest], one.seconds[rest], one.fit.tiles, plane.widest)
        for place, entry in zip(range(fold, len(filling), FOLDS), out):
            predicted = fit.seconds(cin[[entry]].astype(float), cout[[entry]].astype(float))
            errors[place] = np.log(predicted[0, 0] / one.seconds[entry])
    return errors


def _shares(network: Network, table: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The part of the unpruned network's time that each operator takes."""
    total = latency_s(network, network.full_widths, table)
    found: dict[str, float] = {}
    for key, seconds in correction.entries_of(network, network.full_widths, table):
        found[key] = found.get(key, 0.0) + seconds / total
    return found
