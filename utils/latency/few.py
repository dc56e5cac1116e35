"""A table from few, well placed entries, measured in rounds until its predictions of whole networks are good enough.

    round 1   short runs of neighbouring widths, which show the tile sizes of every operator (tiles.py, points.py)
    round 2   entries that fill the plane of every operator, and the whole networks that the sums are fitted to
    then      more entries where entries that a fit has not seen are predicted badly, the costliest operators first

After every round from the second on, the error of whole networks is estimated by cross-validation: a correction is
fitted to a part of them and judged on the rest. The rounds end below ``Goal.max_error`` (and three times as much for
every single network), when ``Goal.minutes`` are used up, or when further entries do not help any more. Before they end
for the last reason, everything is measured again, twice at most: on a noisy machine that is what helps.

rounds.py chooses the entries of a round, from what known.py makes of those before it. This file measures them.

The journal has what was chosen, so that a resumed measurement goes on with the same choice:

    {"reused": {"FC": [[3, 10, 4.1e-05], ...]}, "of": "perf_tables/other.pickle"}    its entries, with their seconds
    {"networks": 30, "copies": 3}                        how many whole networks there are, and items of each
    {"round": 3, "entries": {"FC": [[3, 10], ...]}, "expected": 0.031, "worst": 0.08}    errors expected before it
    {"again": 1, "expected": 0.03, "worst": 0.09}        everything is measured again, with errors expected before it
    {"stopped": "max_error", "max_error": 0.02, "minutes": 10.0}
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Optional, Union

import numpy as np

from model.network import Widths
from utils.common.errors import UserError
from utils.common.journal import Journal, Record
from utils.latency import known as knowing
from utils.latency import measure, rounds
from utils.latency.entries import Entries
from utils.latency.known import Known, Measured, Planes
from utils.latency.measure import Begun, Source
from utils.latency.note import alike
from utils.latency.rounds import FEWEST_NETWORKS, Choice, Goal
from utils.latency.runners import Model, Runner, patiently
from utils.latency.timing import Care, Session

NAME = "few points"  # of this way, in headers
PATIENCE = 0.05  # part of the minutes that may be waited for a machine as fast as usual
AVERAGE = 0.6  # of the unpruned network's time that a random one takes, about
VISITS = 1.3  # times the passes: visits of an item, about
RESERVE = 0.92  # part of the minutes in which everything is measured; the rest is for fits and files
TIMED = 16  # entries from which the time of all is estimated
AGAIN, MORE = 2, 2  # how often everything is measured again, at most, and visits of every item that this adds

TELLING = 5  # reused entries that are measured again, which tell a table's speed
OLD = "--reuse"  # the name of all tables in a journal that does not tell them apart

Reused = Mapping[str, Mapping[int, float]]  # seconds by number, by the table that has measured them


def roomy(care: Care) -> Care:
    """The care that a measurement in rounds begins with: the visits of an item have room for measuring all again."""
    return replace(care, max_visits=care.max_visits + AGAIN * MORE)


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
            elif "stopped" not in record and "again" not in record:
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

    def run(self, reused: Reused) -> tuple[Known, str]:
        """Measure until it is enough. reused: what other tables have.

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
            self._measure(session)
        while True:
            known = self.known() if len(self.rounds) > 1 else None
            chosen, expected = self._next(known), {"expected": known.expected, "worst": known.worst} if known else {}
            if chosen == "no_gain" and self.again < AGAIN:
                self._note({"again": self.again + 1, **expected})
            elif isinstance(chosen, str):
                self._note({"stopped": chosen, "max_error": self.goal.max_error, "minutes": self.goal.minutes})
                return known or self.known(), chosen
            else:
                self._note({"round": len(self.rounds) + 1, "entries": self.planes.labels(chosen), **expected})
            self._measure(session)

    def _measure(self, session: Session) -> None:
        """Measure what the last choice in the journal asks for, as far as it is not measured."""
        asked = next(record for record in reversed(self.begun.notes) if "stopped" not in record)
        most = self.care.max_visits - AGAIN * MORE
        title, items, passes = self._title(len(self.rounds)), self._items_of_round(), self.care.passes
        if "again" in asked:
            title, items = f"everything again, {self.again} of at most {AGAIN}", np.arange(len(self.begun.work))
            passes = most + MORE * self.again
        session.care = replace(self.care, passes=passes, max_visits=max(passes, most))
        session.run(title, items)
        self._look_at_speed()

    @property
    def rounds(self) -> list[Record]:
        return [r for r in self.begun.notes if "round" in r]

    @property
    def again(self) -> int:
        """How often everything was measured again."""
        return sum("again" in record for record in self.begun.notes)

    @property
    def missed(self) -> list[float]:
        """How far it was from the goal after each round from the second on, and all again, but for the last."""
        return [self.goal.missed(r["expected"], r["worst"]) for r in self.begun.notes if "expected" in r]

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

    def _begin(self, reused: Reused) -> None:
        """Choose how many whole networks there are; see whether the time is enough."""
        ahead = rounds.work_ahead(self.planes, self.calibrating)
        wanted = np.setdiff1d(ahead.wanted, [number for found in reused.values() for number in found])
        random = np.random.default_rng(self.care.seed)
        some = random.choice(wanted, min(TIMED, len(wanted)), replace=False)
        entry_s = np.mean([self._visit_s(partial(self.source.entry, *self.planes.entries[int(n)])) for n in some]
                          or [0.0])
        visits, count, copies = VISITS * self.care.passes, 0, measure.COPIES
        seconds = visits * entry_s * len(wanted)
        if self.calibrating:
            unpruned = partial(self.source.network, self.planes.network, self.calibrating[0])
            network_s = visits * AVERAGE * self._visit_s(unpruned)
            count, copies = rounds.how_many_networks(len(self.calibrating), network_s, self.goal)
            seconds += network_s * min(FEWEST_NETWORKS, len(self.calibrating))
        if seconds > 60 * RESERVE * self.goal.minutes:
            needed = np.ceil(seconds / RESERVE / 6) / 10
            raise UserError(f"--minutes={self.goal.minutes:g}: a fit of this network needs {len(wanted):,} entries and "
                            f"{min(FEWEST_NETWORKS, count)} whole networks, which take about {needed:g} minutes here; "
                            f"expected --minutes={needed:g} or more")
        for name, found in reused.items():
            if name in self._reused or OLD in self._reused:
                continue  # an interrupted measurement has noted it
            by_key: dict[str, list[list[Any]]] = {}
            for number, value in sorted(found.items()):
                table, cin, cout = self.planes.entries[number]
                by_key.setdefault(table.key, []).append([cin, cout, value])
            self._note({"reused": by_key, "of": name})
        self._note({"networks": count, "copies": copies})

    def _visit_s(self, make: Callable[[], Model]) -> float:
        """The seconds of one visit, in which the model is made."""
        began = self.clock()
        patiently(make, self.runner, "an entry")(self.care.runs)
        return self.clock() - began

    # --- what is known -----------------------------------------------------------------------------------------

    def _measured(self) -> dict[int, float]:
        """Seconds by number of every entry; reused ones at the machine's present speed."""
        now, reused = self._now(), self._reused
        ratios = ratios_of(now, reused)
        return {**{n: ratios[name] * s for name, found in reused.items() for n, s in found.items()}, **now}

    def _now(self) -> dict[int, float]:
        """Seconds by number of what this measurement has measured itself."""
        _, seconds = self.begun.work.split(self.begun.visits.result(self.care))
        return {int(n): float(s) for n, s in zip(self.begun.work.wanted, seconds) if np.isfinite(s)}

    @property
    def _reused(self) -> Reused:
        """As the other tables have them."""
        return {record.get("of", OLD): dict(zip(_numbers(self.planes.entries, record["reused"]).tolist(),
                                                (e[2] for found in record["reused"].values() for e in found)))
                for record in self.begun.notes if "reused" in record}

    def _look_at_speed(self) -> None:
        """Raises UserError where the reused entries must be of another machine."""
        for name, ratio in ratios_of(self._now(), self._reused).items():
            if not alike(ratio):
                raise UserError(f"{name}: the entries that are reused take {ratio:.2f} times as long now: another "
                                "machine, or a busy one; leave it out of --reuse, or measure when the machine is quiet")

    def _by_key(self) -> Measured:
        measured = self._measured()
        numbers = np.array(sorted(measured), np.int64)
        seconds = np.array([measured[n] for n in numbers.tolist()])
        which = self.planes.entries.table_of(numbers)
        return {key: (numbers[which == i] - self.planes.start[key], seconds[which == i])
                for i, key in enumerate(self.planes.of)}

    def known(self) -> Known:
        found = self._by_key()
        empty = [key for key, (numbers, _) in found.items() if not len(numbers)]
        if empty:
            raise UserError(f"--minutes={self.goal.minutes:g}: they ended before {empty[0]} was measured; go on with "
                            "--resume and more --minutes")
        return knowing.known(self.planes, found, *self.networks())

    def networks(self) -> tuple[list[Widths], np.ndarray]:
        """The widths and seconds of the whole networks that were measured."""
        seconds, _ = self.begun.work.split(self.begun.visits.result(self.care))
        lowest = seconds.min(1) if seconds.size else np.zeros(0)
        here = np.isfinite(lowest)
        return [w for w, measured in zip(self.begun.work.networks, here) if measured], lowest[here]

    def about(self) -> Record:
        """For the note, beside what is known."""
        reused = sum(len(found) for r in self.begun.notes if "reused" in r for found in r["reused"].values())
        return {"rounds": len(self.rounds), "measured_again": self.again, "networks": len(self.networks()[0]),
                "reused": reused}

    # --- what is measured next ---------------------------------------------------------------------------------

    def _next(self, known: Optional[Known]) -> Union[Choice, str]:
        """The numbers of the next entries within each operator, or why there are none. known: from the second on."""
        if self._enough():
            return "minutes"
        if known is None:
            return (rounds.filling(self.planes, self._by_key(), self.care.seed) if self.rounds else
                    rounds.opening(self.planes, [np.array(list(found), np.int64) for found in self._reused.values()],
                                   self.care.seed))
        if known.expected is None or known.worst is None:
            return "minutes"
        visit_s = self._elapsed_s() / max(int(self.begun.visits.count.sum()), 1)
        affordable = self._left_s() / max(VISITS * self.care.passes * visit_s, 1e-9)  # new entries get these passes
        missed = [*self.missed, self.goal.missed(known.expected, known.worst)]
        return rounds.further(self.planes, known, missed, affordable, self.care.seed)


def ratios_of(now: Mapping[int, float], reused: Reused) -> dict[str, float]:
    """By table, by how much the machine is slower now; that of all tables for one with too few entries to tell."""
    of_all = slower(now, {number: seconds for found in reused.values() for number, seconds in found.items()})
    return {name: slower(now, found) if len(set(now) & set(found)) >= TELLING else of_all
            for name, found in reused.items()}


def slower(now: Mapping[int, float], then: Mapping[int, float]) -> float:
    """By how much the machine is slower now: the median of the entries that both have; 1 without any."""
    both = sorted(set(now) & set(then))
    return float(np.median([now[n] / then[n] for n in both])) if both else 1.0
