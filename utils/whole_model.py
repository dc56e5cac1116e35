"""Time whole models with the care that tables are measured with, beside what a table predicts for them.

A neighbour on the machine disturbs for seconds at a time, so the model is timed over some seconds, opened anew again
and again. Where a table predicts it, the table's probe is timed along, and the prediction is for the machine as fast
as it is now, as in ``validation``.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping, Optional, Union

import numpy as np

from model.network import Network, Widths
from utils import latency_table, machine
from utils.measuring import patiently, probe_entry
from utils.session import Care, Session, State, low

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
        return low(self.items_s)

    @property
    def high_s(self) -> float:
        return float(np.quantile(self.items_s, 0.8))

    @property
    def predicted_s(self) -> Optional[float]:
        """What the table predicts for the machine as fast as it is now, if it is the same machine."""
        return self.expectation and self.expectation.table_s * (self.ratio if self.alike else 1)

    @property
    def alike(self) -> bool:
        return is_alike(self.ratio)

    def as_json(self) -> Dict[str, Any]:
        """What --json prints; errors are relative to the measured time."""
        found = {"measured_s": self.measured_s, "high_s": self.high_s, "items": len(self.items_s),
                 "unsettled_items": self.unsettled}
        if self.expectation:
            found.update(predicted_s=self.predicted_s, error=self._error(self.predicted_s),
                         probe_now_over_then=self.ratio, without_probe={
                             "predicted_s": self.expectation.table_s, "error": self._error(self.expectation.table_s)})
        return found

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"measured  {_ms(self.measured_s)} (20th percentile of {len(self.items_s)} times; 80th: {_ms(self.high_s)})"
        if self.unsettled:
            yield (f"a noisy machine: {self.unsettled} of these {len(self.items_s)} times did not settle; measure "
                   "again when the machine is quiet")
        if not self.expectation:
            return
        yield f"predicted {_ms(self.predicted_s)} ({self._error(self.predicted_s):+.1%}) by {self.expectation.table}"
        if self.ratio is not None:
            plain = self.expectation.table_s
            yield about_probe(self.ratio) + (f"; without that: {_ms(plain)} ({self._error(plain):+.1%})" if self.alike else "")

    def _error(self, predicted_s: float) -> float:
        return predicted_s / self.measured_s - 1


@dataclass(frozen=True)
class Timings:
    """Seconds of several models, measured together."""

    seconds: Dict[str, float]  # by name
    ratio: Optional[float]  # as Timing.ratio


def is_alike(ratio: Optional[float]) -> bool:
    """Does the probe say that the table is of this machine? ratio: what it takes now over what it took then."""
    return ratio is not None and machine.alike(1, ratio)


def about_probe(ratio: float) -> str:
    """For people, what the ratio says."""
    if is_alike(ratio):
        return f"the probe takes {ratio - 1:+.1%} against when the table was measured"
    return (f"the probe takes {ratio:.2f} times as long as when the table was measured: another machine, or a busy one; "
            "measure the table anew")


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.4f} ms"


def expect(table: Path, network: Network, widths: Widths, quantize: str, now: Mapping[str, Any]) -> Optional[Expectation]:
    """What the table predicts for the network at these widths; None, and a word on stderr, where it is quantised.

    now: how the model will be measured, in the words of sidecars; what is otherwise in the table's is said on stderr.
    Raises UserError where the table is not of this network.
    """
    seconds = latency_table.latency_s(network, widths, latency_table.read_table(table, network))
    if quantize != "none":
        print(f"{table}: measured on float32 layers, which tell nothing of a model quantised to {quantize}: no prediction",
              file=sys.stderr)
        return None
    return Expectation(table, seconds, table_probe(table, network, now))


def table_probe(table: Path, network: Network, now: Mapping[str, Any]) -> Optional[Probe]:
    """What kept time while the table was measured, if that was in the way of ``now``; if not, stderr says so."""
    note = latency_table.read_provenance(table)
    differences = list(machine.differences(note, now))
    for line in differences:
        print(f"{table}: {line}", file=sys.stderr)
    then_s, model = latency_table.probe_in(note), probe_model(network)
    return Probe(model, then_s) if then_s and model and not differences else None


def probe_model(network: Network) -> Optional[bytes]:
    """The layer that keeps time, as a .tflite file; None where this Python cannot write it."""
    try:
        from utils import tflite_writer
    except ImportError:
        return None
    return tflite_writer.variant(*probe_entry(network))


def measure(model: Union[Path, bytes], name: str, runner, care: Care, expectation: Optional[Expectation]) -> Timing:
    """Time a model, a file or its bytes; name: for messages. Without a table's probe the model is its own.

    Raises UserError when the model cannot be timed.
    """
    def timer(of):
        return patiently(lambda: of, runner, name, "")

    probe = expectation.probe if expectation else None
    state = State(_items(timer(model), care), care.max_visits, probe.then_s if probe else np.inf)
    Session(care, state, lambda item: timer(model), timer(probe.model if probe else model)).run("timing the model")
    return Timing(state.result(care), int(state.unsettled(care).sum()), state.usual_s / probe.then_s if probe else None,
                  expectation)


def measure_together(models: Mapping[str, Path], runner, care: Care, probe: Optional[Probe] = None) -> Timings:
    """Time several models by name, visited in turn and at random, so that all meet the same machine; without a table's
    probe the first one is theirs. Raises UserError naming the model that cannot be timed."""
    names = list(models)
    timers = [patiently(lambda path=models[name]: path, runner, str(models[name]), "") for name in names]
    turns = int(np.clip(max(_items(one, care) for one in timers) // len(names), *TURNS))
    state = State(turns * len(names), care.max_visits)
    keeper = patiently(lambda: probe.model, runner, "probe", "") if probe else timers[0]
    Session(care, state, lambda item: timers[item % len(names)], keeper).run(f"timing {len(names)} models")
    seconds = state.result(care).reshape(turns, len(names))
    return Timings({name: low(seconds[:, i]) for i, name in enumerate(names)},
                   state.usual_s / probe.then_s if probe else None)


def _items(timer, care: Care) -> int:
    """How often to measure, by how long a visit takes."""
    began = time.monotonic()
    timer(care.runs)
    return int(np.clip(SECONDS / ((time.monotonic() - began) * care.passes), *ITEMS))
