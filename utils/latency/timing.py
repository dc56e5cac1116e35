"""Time many things so that the figures can be trusted: random order, interleaved passes, a probe that shows drift.

The things to time are *items*, numbered from 0. A *visit* opens an item and times a few runs of it; a pass visits all
items in random order. Between visits the *probe*, always the same model, is timed again and again. A slow probe shows
that the machine was disturbed (by its clock, heat or other programs): the visits next to it do not count. An item is
visited again, up to a limit, if too few of its visits count or if they differ too much.

Noise only adds time. So a visit's figure is a low percentile of its runs, and an item's figure is its lowest visit.
This module knows no networks, tables or files: the caller passes the clock, the recorders and the timers.
"""

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Optional

import numpy as np

from utils.common.errors import UserError
from utils.common.progress import progress
from utils.latency import sensors
from utils.latency.runners import Timer

USUAL = 0.1  # the quantile of all probes that is the probe's usual time
COOLER_C = 5.0  # a pause ends this much below the limit
WAIT_S = 0.25  # before a slow probe is tried again
COOLING_S = 900.0  # a longer pause is an error


@dataclass(frozen=True)
class Care:
    """How carefully to measure. ``spread`` and ``drift`` are relative."""

    passes: int = 2  # visits of every item
    runs: int = 6  # timed runs of a visit
    max_visits: int = 6  # of an item that is not settled
    spread: float = 0.05  # by which the two lowest visits of an item may differ
    drift: float = 0.05  # how much slower than usual the probe may be
    max_temp_c: Optional[float] = None  # pause above it; None: never
    probe_every_s: float = 0.1
    probe_runs: int = 5
    patience_s: float = 30.0  # seconds, in all, to wait for a probe as fast as usual before further visits
    short_wait_s: float = 2.0  # seconds of waiting always allowed; beyond them, at most the time spent on measuring
    seed: int = 0


def low(runs: Sequence[float]) -> float:
    """The 20th percentile of the runs of a visit, rounded down to one of them."""
    return sorted(runs)[len(runs) // 5]


class Visits:
    """What was measured so far: the visits of every item in order, and the probes between them.

    A *block* is what lies between two probes; block b follows probe b.
    """

    def __init__(self, items: int, max_visits: int, known_usual_s: float = np.inf):
        """known_usual_s: the probe's seconds at a time when the machine was known to be as fast as usual."""
        self.known_usual_s = known_usual_s
        self.count = np.zeros(items, np.int16)
        self.seconds = np.full((max_visits, items), np.nan, np.float32)
        self.block = np.zeros((max_visits, items), np.int32)
        self.probes: list[float] = []
        self.waiting: list[bool] = []  # by probe: taken while waiting for a faster one
        self.throttled: list[tuple[str, ...]] = []  # by probe: what slowed the processor, in words
        self.temperatures: list[float] = []
        self.paused_s = 0.0
        self.elapsed_s = 0.0  # of all sessions, as far as their records tell
        self._at_s = 0.0  # of the last probe, since its session began

    def grow(self, items: int) -> None:
        """Make room for so many further items."""
        self.count = np.pad(self.count, (0, items))
        self.seconds = np.pad(self.seconds, ((0, 0), (0, items)), constant_values=np.nan)
        self.block = np.pad(self.block, ((0, 0), (0, items)))

    def add_visit(self, item: int, seconds: float) -> None:
        visit = self.count[item]
        if visit < len(self.seconds):  # more than the limit: only where a journal was made longer by hand
            self.seconds[visit, item] = seconds
            self.block[visit, item] = max(len(self.probes) - 1, 0)
            self.count[item] = visit + 1

    def add_probe(self, record: dict[str, Any]) -> None:
        """record: as ``Session`` writes it: "probe" (runs, s), "at_s" (since the session began), "temperature_c",
        "throttled", "paused_s", "waiting"."""
        self.probes.append(low(record["probe"]))
        self.waiting.append(bool(record.get("waiting")))
        words = record.get("throttled") or ()
        self.throttled.append(tuple(map(str, words)) if isinstance(words, (list, tuple)) else ("throttled",))
        at_s = record.get("at_s", self._at_s)
        self.elapsed_s += at_s - self._at_s if at_s >= self._at_s else at_s  # a lower figure is of a new session
        self._at_s = at_s
        if record.get("temperature_c") is not None:
            self.temperatures.append(record["temperature_c"])
        self.paused_s += record.get("paused_s", 0.0)

    @property
    def usual_s(self) -> float:
        """The probe's usual seconds: a low quantile of all probes except those taken while waiting."""
        return float(np.quantile(np.array(self.probes)[~np.array(self.waiting)], USUAL))

    def slow_probes(self, drift: float) -> np.ndarray:
        """By probe: True if the machine was throttled, or slower than usual, now or at the known time."""
        usual_s = min(self.usual_s, self.known_usual_s)
        return (np.array(self.probes) > usual_s * (1 + drift)) | np.array([bool(words) for words in self.throttled])

    def off_blocks(self, drift: float) -> np.ndarray:
        """By block: True if the machine was slow at the probe before it or after it."""
        if not self.probes:
            return np.zeros(1, bool)
        slow = self.slow_probes(drift)
        return slow | np.append(slow[1:], False)

    def counted(self, drift: float) -> np.ndarray:
        """Seconds of every visit, [visit, item], NaN if there was none or the machine was slow."""
        return np.where(self.off_blocks(drift)[self.block], np.nan, self.seconds)

    def lowest(self, drift: float) -> np.ndarray:
        """The two lowest counted visits of every item, [2, items], NaN where there are fewer."""
        visits = np.sort(self.counted(drift), axis=0)  # NaN last
        return np.vstack([visits, np.full((2, visits.shape[1]), np.nan)])[:2]

    def unsettled(self, care: Care) -> np.ndarray:
        """By item: True if fewer than two visits count (one, with one pass), or the two lowest differ by more than
        ``care.spread``."""
        first, second = self.lowest(care.drift)
        if care.passes == 1:
            return np.isnan(first)
        return ~(second <= first * (1 + care.spread))

    def result(self, care: Care) -> np.ndarray:
        """Seconds by item: the lowest counted visit, or the lowest of all where none counts; NaN: never visited."""
        first = self.lowest(care.drift)[0]
        with np.errstate(all="ignore"):
            return np.where(np.isnan(first), np.fmin.reduce(self.seconds, axis=0), first).astype(np.float64)


@dataclass
class Session:
    """A running measurement; ``visits`` may hold what an earlier process measured.

    open_item(item) returns the item's timer; probe is the probe's timer. record_visit(item, runs) and
    record_probe(record) store the results. Tests replace clock, sleep and read_sensors.
    """

    care: Care
    visits: Visits
    open_item: Callable[[int], Timer]
    probe: Timer
    record_visit: Callable[[int, list[float]], None] = lambda item, runs: None
    record_probe: Callable[[dict[str, Any]], None] = lambda record: None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    read_sensors: Callable[[], sensors.Reading] = field(default_factory=sensors.reader)
    enough: Callable[[], bool] = lambda: False  # asked before every visit: True ends the session
    _next_probe: float = field(default=0.0, init=False)
    _waited_s: float = field(default=0.0, init=False)
    _began: float = field(default=0.0, init=False)

    def run(self, title: str = "measuring", items: Optional[np.ndarray] = None) -> None:
        """Make all passes over these items (None: all), then visit those that are unsettled again until they settle or
        reach the limit."""
        random = np.random.default_rng(self.care.seed)
        items, self._began = np.arange(len(self.visits.count)) if items is None else items, self.clock()
        self._take_probe()
        done = int(np.minimum(self.visits.count[items], self.care.passes).sum())
        self._visit_all(progress(self._items_of_passes(items, random), title, len(items) * self.care.passes, done))
        for further in range(self.care.passes, self.care.max_visits):
            unsettled = self.visits.unsettled(self.care) & (self.visits.count < self.care.max_visits)
            again = items[unsettled[items]]
            if not len(again) or self.enough():
                break
            words = f"{title} again, round {further - self.care.passes + 1} of at most "
            self._visit_all(self._when_usual(self._usual_s(), progress(random.permutation(again).tolist(),
                                                      f"{words}{self.care.max_visits - self.care.passes}")))

    def _items_of_passes(self, items: np.ndarray, random: np.random.Generator) -> Iterable[int]:
        for number in range(1, self.care.passes + 1):
            order = items[random.permutation(len(items)).astype(np.int32)]
            yield from (int(item) for item in order if self.visits.count[item] < number)

    def _usual_s(self) -> float:
        return min(self.visits.usual_s, self.visits.known_usual_s)

    def _when_usual(self, usual_s: float, items: Iterable[int]) -> Iterable[int]:
        """Yield each item when the machine is as fast as usual, or when the patience is used up."""
        said = False
        for item in items:
            while self._waited_s < self._patience_s() and (
                    self.visits.throttled[-1] or self.visits.probes[-1] > usual_s * (1 + self.care.drift)):
                if not said:
                    print("the machine is slower than usual: waiting for it, up to "
                          f"{self._patience_s() - self._waited_s:.0f} s", file=sys.stderr, flush=True)
                    said = True
                self.sleep(WAIT_S)
                self._waited_s += WAIT_S
                self._take_probe(waiting=True)
            yield item

    def _patience_s(self) -> float:
        return min(self.care.patience_s, self.care.short_wait_s + self.clock() - self._began - self._waited_s)

    def _visit_all(self, items: Iterable[int]) -> None:
        for item in items:
            if self.enough():
                break
            if self.clock() >= self._next_probe:
                self._take_probe()
            runs = [round(s, 9) for s in self.open_item(item)(self.care.runs)]
            self.record_visit(item, runs)
            self.visits.add_visit(item, low(runs))
        self._take_probe()

    def _take_probe(self, waiting: bool = False) -> None:
        reading, paused_s = self._cool()
        began = self.clock()
        record: dict[str, Any] = {"probe": [round(s, 9) for s in self.probe(self.care.probe_runs)]}
        record["at_s"] = round(self.clock() - self._began, 1)
        if reading.temperature_c is not None:
            record["temperature_c"] = reading.temperature_c
        if reading.throttled:
            record["throttled"] = list(reading.throttled)
        if waiting:
            record["waiting"] = True
        if paused_s >= 1:
            record["paused_s"] = round(paused_s, 1)
        self.record_probe(record)
        self.visits.add_probe(record)
        # A slow probe (a benchmark binary has to start) runs less often: it takes at most a twentieth of the time.
        now = self.clock()
        self._next_probe = now + max(self.care.probe_every_s, 20 * (now - began))

    def _cool(self) -> tuple[sensors.Reading, float]:
        """Wait while the board is too hot. Returns the last reading, but with the temperature before the pause, and the
        seconds waited."""
        began, reading = self.clock(), self.read_sensors()
        limit, hottest, paused = self.care.max_temp_c, reading.temperature_c, False
        while limit is not None and reading.temperature_c is not None and reading.temperature_c > limit:
            if not paused:
                limit, paused = limit - COOLER_C, True
                print(f"{reading.temperature_c:.0f} °C is above --max_temp: pausing until {limit:.0f} °C",
                      file=sys.stderr, flush=True)
            if self.clock() - began > COOLING_S:
                raise UserError(f"still {reading.temperature_c:.0f} °C after {COOLING_S / 60:.0f} minutes of pause; "
                                "cool the board or raise --max_temp, then go on with --resume")
            self.sleep(1.0)
            reading = self.read_sensors()
        return replace(reading, temperature_c=hottest), self.clock() - began
