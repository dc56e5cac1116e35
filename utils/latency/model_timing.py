"""Time whole models with the care that tables are measured with, beside what a table predicts for them.

A neighbour on the machine disturbs for seconds at a time, so the model is timed over some seconds, opened anew again
and again. Where a table predicts it, the table's probe is timed along, and the prediction is for the machine as fast
as it is now, as in validation.py.
"""

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np

from model.network import Network, Widths
from utils.latency import note as notes
from utils.latency.entries import probe_entry
from utils.latency.note import Note, alike, at_todays_speed
from utils.latency.runners import Model, Runner, Timer, patiently
from utils.latency.tables import latency_s, read_table
from utils.latency.timing import Care, Session, Visits, low
from utils.latency.writing import tflite_writer, variant

FORMAT = 1  # of what compute_table.py --mode=measure --json prints
SECONDS = 5.0  # to spend on the passes, about
ITEMS = (4, 200)  # times that the model is measured, each with all passes
TURNS = (4, 12)  # where several are measured together, each of them
CARE = Care(passes=4, runs=3, max_visits=10)


@dataclass(frozen=True)
class Probe:
    """What kept time while a latency table was measured."""

    model: bytes
    then_s: float  # seconds that it took then


@dataclass(frozen=True)
class Expectation:
    """What a latency table says of a model."""

    table: Path
    table_s: float  # seconds per inference, the machine being as fast as when the table was measured
    probe: Optional[Probe]  # None: not known, measured in another way than now, or this Python cannot write it


@dataclass(frozen=True)
class Timing:
    """Seconds of one model."""

    items_s: np.ndarray  # every item's, the lowest of its visits
    unsettled: int  # items whose visits do not agree, or that never met the machine at its usual speed
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
        """What the table predicts for the machine as fast as it is now, if it is the same machine."""
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
    ratio: Optional[float]  # as Timing.ratio


def about_probe(ratio: float) -> str:
    """For people, what the ratio says."""
    if alike(ratio):
        return f"the probe takes {ratio - 1:+.1%} against when the table was measured"
    return (f"the probe takes {ratio:.2f} times as long as when the table was measured: another machine, or a busy "
            "one; measure the table anew")


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.4f} ms"


def expect(table: Path, network: Network, widths: Widths, quantize: str, now: Note) -> Optional[Expectation]:
    """What the table predicts for the network at these widths; None, and a word on stderr, where it is quantised.

    now: how the model will be measured, in the words of notes; what is otherwise in the table's is said on stderr.
    Raises UserError where the table is not of this network.
    """
    seconds = latency_s(network, widths, read_table(table, network))
    if quantize != "none":
        print(f"{table}: measured on float32 layers, which tell nothing of a model quantised to {quantize}: no "
              "prediction", file=sys.stderr)
        return None
    return Expectation(table, seconds, table_probe(table, network, now))


def table_probe(table: Path, network: Network, now: Note) -> Optional[Probe]:
    """What kept time while the table was measured, if that was in the way of ``now``; if not, stderr says so."""
    note = notes.read_note(table)
    differences = list(notes.differences(note, now))
    for line in differences:
        print(f"{table}: {line}", file=sys.stderr)
    then_s = notes.probe_in(note)
    if not then_s or differences or not tflite_writer():
        return None
    return Probe(variant(1, *probe_entry(network)), then_s)


def time_model(model: Model, name: str, runner: Runner, care: Care, expectation: Optional[Expectation]) -> Timing:
    """Time a model; name: for messages. Without a table's probe the model is its own.

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
    """Time several models by name, visited in turn and at random, so that all meet the same machine; without a table's
    probe the first one is theirs. Raises UserError naming the model that cannot be timed."""
    def timer(model: Model, name: str) -> Timer:
        return patiently(lambda: model, runner, name)

    timers = [timer(path, str(path)) for path in models.values()]
    turns = int(np.clip(max(_items(one, care) for one in timers) // len(timers), *TURNS))
    visits = Visits(turns * len(timers), care.max_visits)
    keeper = timer(probe.model, "probe") if probe else timers[0]
    Session(care, visits, lambda item: timers[item % len(timers)], keeper).run(f"timing {len(timers)} models")
    seconds = visits.result(care).reshape(turns, len(timers))
    return Timings({name: low(seconds[:, i].tolist()) for i, name in enumerate(models)},
                   visits.usual_s / probe.then_s if probe else None)


def _items(timer: Timer, care: Care) -> int:
    """How often to measure, by how long a visit takes."""
    began = time.monotonic()
    timer(care.runs)
    return int(np.clip(SECONDS / ((time.monotonic() - began) * care.passes), *ITEMS))
