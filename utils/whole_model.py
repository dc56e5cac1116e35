"""Time one whole model with the care that tables are measured with, beside what a table predicts for it.

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
class Expectation:
    """What a latency table says of a model."""

    table: Path
    table_s: float  # seconds per inference, the machine being as fast as when the table was measured
    then_s: Optional[float]  # the probe at that time; None: not known, or measured in another way than now
    probe: Optional[bytes]  # the model that was the table's probe; None where this Python cannot write it


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
        """Does the probe say that the table is of this machine?"""
        return self.ratio is not None and machine.alike(1, self.ratio)

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
        if self.alike:
            plain = self.expectation.table_s
            yield (f"the probe takes {self.ratio - 1:+.1%} against when the table was measured; without that: "
                   f"{_ms(plain)} ({self._error(plain):+.1%})")
        elif self.ratio is not None:
            yield (f"the probe takes {self.ratio:.2f} times as long as when the table was measured: another machine, or a "
                   "busy one; measure the table anew")

    def _error(self, predicted_s: float) -> float:
        return predicted_s / self.measured_s - 1


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
    note = latency_table.read_provenance(table)
    differences = list(machine.differences(note, now))
    for line in differences:
        print(f"{table}: {line}", file=sys.stderr)
    return Expectation(table, seconds, None if differences else latency_table.probe_in(note), _probe(network))


def _probe(network: Network) -> Optional[bytes]:
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
    then_s = expectation.then_s if probe else None
    state = State(_items(timer(model), care), care.max_visits, then_s or np.inf)
    Session(care, state, lambda item: timer(model), timer(probe or model)).run("timing the model")
    return Timing(state.result(care), int(state.unsettled(care).sum()), state.usual_s / then_s if then_s else None,
                  expectation)


def measure_together(models: Mapping[str, Path], runner, care: Care) -> Dict[str, float]:
    """Seconds of each of several models by name, visited in turn and at random, so that all meet the same machine; the
    first one is the probe. Raises UserError naming the model that cannot be timed."""
    names = list(models)
    timers = [patiently(lambda path=models[name]: path, runner, str(models[name]), "") for name in names]
    turns = int(np.clip(max(_items(one, care) for one in timers) // len(names), *TURNS))
    state = State(turns * len(names), care.max_visits)
    Session(care, state, lambda item: timers[item % len(names)], timers[0]).run(f"timing {len(names)} models")
    seconds = state.result(care).reshape(turns, len(names))
    return {name: low(seconds[:, i]) for i, name in enumerate(names)}


def _items(timer, care: Care) -> int:
    """How often to measure, by how long a visit takes."""
    began = time.monotonic()
    timer(care.runs)
    return int(np.clip(SECONDS / ((time.monotonic() - began) * care.passes), *ITEMS))
