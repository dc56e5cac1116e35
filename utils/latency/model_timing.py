"""Time whole models as carefully as tables, and compare them with what a table predicts.

Other programs on the machine disturb for seconds at a time. So a model is timed over several seconds, and a single
model is opened anew for every visit. If a table predicts the model, the table's probe is timed too. The prediction is
then scaled to the machine's present speed, as in validation.py.
"""

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np

from model.network import Network, Widths
from utils.common.errors import UserError
from utils.latency import note as notes
from utils.latency.entries import probe_entry
from utils.latency.note import Note, alike, at_todays_speed
from utils.latency.runners import Model, Runner, Timer, Untimed, patiently
from utils.latency.table_files import read_note
from utils.latency.tables import latency_s, read_table
from utils.latency.timing import Care, Session, Visits, low
from utils.latency.writing import tflite_writer, variant

FORMAT = 1  # of what compute_table.py --mode=measure --json prints
SECONDS = 5.0  # that all passes take, about
ITEMS = (4, 200)  # least and most items for one model; every pass visits each
TURNS = (4, 12)  # the same for each of several models
CARE = Care(passes=4, runs=3, max_visits=10)


@dataclass(frozen=True)
class Probe:
    """The probe of a latency table."""

    model: bytes
    then_s: float  # its usual seconds while the table was measured


@dataclass(frozen=True)
class Expectation:
    """What a latency table predicts for a model."""

    table: Path
    table_s: float  # seconds per inference, at the machine's speed when the table was measured
    probe: Optional[Probe]  # None: not known, measured otherwise than now, or this Python cannot write it


@dataclass(frozen=True)
class Timing:
    """Seconds of one model."""

    items_s: np.ndarray  # every item's, the lowest of its visits
    unsettled: int  # items whose visits differ too much, or whose visits all met a slow machine
    ratio: Optional[float]  # the probe now over the probe while the table was measured; None: not known
    expectation: Optional[Expectation]

    @property
    def measured_s(self) -> float:
        return low(self.items_s.tolist())

    @property
    def high_s(self) -> float:
        return float(np.quantile(self.items_s, 0.8))

    @property
    def predicted_s(self) -> Optional[float]:
        """The table's prediction, scaled to the machine's present speed if it is the same machine."""
        return at_todays_speed(self.expectation.table_s, self.ratio) if self.expectation else None

    def as_json(self) -> dict[str, Any]:
        """What --json prints; errors are relative to the measured time."""
        found = {"measured_s": self.measured_s, "high_s": self.high_s, "items": len(self.items_s),
                 "unsettled_items": self.unsettled}
        if self.expectation and self.predicted_s is not None:
            found.update(predicted_s=self.predicted_s, error=self._error(self.predicted_s),
                         probe_now_over_then=self.ratio, without_probe={
                             "predicted_s": self.expectation.table_s, "error": self._error(self.expectation.table_s)})
        return found

    def lines(self) -> Iterator[str]:
        """For people."""
        yield (f"measured  {_ms(self.measured_s)} (20th percentile of {len(self.items_s)} times; 80th: "
               f"{_ms(self.high_s)})")
        if self.unsettled:
            yield (f"a noisy machine: {self.unsettled} of these {len(self.items_s)} times did not settle; measure "
                   "again when the machine is quiet")
        if not self.expectation or self.predicted_s is None:
            return
        yield f"predicted {_ms(self.predicted_s)} ({self._error(self.predicted_s):+.1%}) by {self.expectation.table}"
        if self.ratio is not None:
            plain = self.expectation.table_s
            yield about_probe(self.ratio) + (f"; without that: {_ms(plain)} ({self._error(plain):+.1%})"
                                             if alike(self.ratio) else "")

    def _error(self, predicted_s: float) -> float:
        return predicted_s / self.measured_s - 1


@dataclass(frozen=True)
class Timings:
    """Seconds of several models, measured together."""

    seconds: dict[str, float]  # by name
    failed: dict[str, str]  # why the other models could not be timed, by name
    ratio: Optional[float]  # as Timing.ratio


def about_probe(ratio: float) -> str:
    """The probe's ratio in words."""
    return about_ratio(ratio, "the probe takes")


def about_ratio(ratio: float, what_takes: str) -> str:
    """In words, a time now over that when the table was measured."""
    if alike(ratio):
        return f"{what_takes} {ratio - 1:+.1%} compared with when the table was measured"
    return (f"{what_takes} {ratio:.2f} times as long as when the table was measured: another machine, or a busy one; "
            "measure the table anew")


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.4f} ms"


def expect(table: Path, network: Network, widths: Widths, quantize: str, now: Note) -> Optional[Expectation]:
    """What the table predicts for the network at these widths; None, with a line on stderr, for a quantised model.

    now: how the model will be measured, from ``how_measured``. Differences from the table's note are printed on stderr.
    Raises UserError if the table is not of this network.
    """
    seconds = latency_s(network, widths, read_table(table, network))
    if quantize != "none":
        print(f"{table}: measured on float32 layers, which tell nothing of a model quantised to {quantize}: no "
              "prediction", file=sys.stderr)
        return None
    return Expectation(table, seconds, table_probe(table, network, now))


def table_probe(table: Path, network: Network, now: Note) -> Optional[Probe]:
    """The table's probe; None if its note has none, this Python cannot write it, or the table was measured otherwise
    than ``now``. Such differences are printed on stderr."""
    note = read_note(table)
    differences = notes.reported_differences(table, note, now)
    then_s = notes.probe_in(note)
    if not then_s or differences or not tflite_writer():
        return None
    return Probe(variant(1, *probe_entry(network)), then_s)


def time_model(model: Model, name: str, runner: Runner, care: Care, expectation: Optional[Expectation]) -> Timing:
    """Time a model; name: for messages. Without a table's probe, the model itself is the probe.

    Raises UserError when the model cannot be timed.
    """
    def timer(of: Model) -> Timer:
        return patiently(lambda: of, runner, name)

    probe = expectation.probe if expectation else None
    visits = Visits(_items(timer(model), care), care.max_visits, probe.then_s if probe else np.inf)
    Session(care, visits, lambda item: timer(model), timer(probe.model if probe else model)).run("timing the model")
    return Timing(visits.result(care), int(visits.unsettled(care).sum()),
                  visits.usual_s / probe.then_s if probe else None, expectation)


def time_together(models: Mapping[str, Path], runner: Runner, care: Care, probe: Optional[Probe] = None) -> Timings:
    """Time several models, {name: file}, with visits in random order, so that all meet the same conditions.

    Without a table's probe, the first model is the probe. A model that fails, or crashes the runtime, is left out, and
    the others are timed anew. Raises UserError if all fail.
    """
    left, failed = dict(models), {}
    while left:
        try:
            seconds, ratio = _time_together(left, runner, care, probe)
            return Timings(seconds, failed, ratio)
        except Untimed as error:
            if error.name not in left:  # the table's probe
                raise
            failed[error.name] = str(error)
            del left[error.name]
    raise UserError(next(iter(failed.values())))


def _time_together(models: Mapping[str, Path], runner: Runner, care: Care,
                   probe: Optional[Probe]) -> tuple[dict[str, float], Optional[float]]:
    """Seconds by name, and the ratio of ``Timings``. Raises Untimed."""
    def timer(model: Model, name: str) -> Timer:
        return patiently(lambda: model, runner, name)

    timers = [timer(path, name) for name, path in models.items()]
    turns = int(np.clip(max(_items(one, care) for one in timers) // len(timers), *TURNS))
    visits = Visits(turns * len(timers), care.max_visits)
    keeper = timer(probe.model, "probe") if probe else timers[0]
    Session(care, visits, lambda item: timers[item % len(timers)], keeper).run(f"timing {len(timers)} models")
    seconds = visits.result(care).reshape(turns, len(timers))
    return ({name: low(seconds[:, i].tolist()) for i, name in enumerate(models)},
            visits.usual_s / probe.then_s if probe else None)


def _items(timer: Timer, care: Care) -> int:
    """The number of items, from the time that one visit takes."""
    began = time.monotonic()
    timer(care.runs)
    return int(np.clip(SECONDS / ((time.monotonic() - began) * care.passes), *ITEMS))
