"""Compare a table's predictions with the times of random whole networks, measured as carefully as tables.

A machine's speed changes by some percent from one hour to the next, with its clock and with other programs. So some
whole networks that were timed when the table was measured are timed again (references.py), and the predictions are
scaled to the machine's present speed. Tables without them have the probe for it, an entry of the table. The predictions
without this scaling are reported as well.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np

from model.network import Network, Widths
from utils.latency.entries import probe_entry
from utils.latency.model_timing import about_probe, about_ratio
from utils.latency.note import Note, at_todays_speed, correction_in, probe_in
from utils.latency.references import references_in
from utils.latency.runners import Runner, patiently
from utils.latency.table_files import LatencyTable
from utils.latency.tables import corrected, latency_s
from utils.latency.timing import Care, Session, Visits
from utils.latency.writing import variant, whole_network


@dataclass(frozen=True)
class Validation:
    """Seconds of every network, [networks]."""

    table_s: np.ndarray  # the sum of the table, corrected as its note says
    sums_s: np.ndarray  # the sum of the table as it was measured
    first_s: np.ndarray  # measured
    second_s: np.ndarray  # measured once more
    ratio: Optional[float]  # the probe now over the probe while the table was measured; None: not known
    unsettled: int  # networks whose visits differ too much, or whose visits all met a slow machine
    of_references: Optional[float] = None  # the references now over then; None: not known

    @property
    def slower(self) -> float:
        """By how much the machine is slower now; 1 if that is not known, or the machine is another one."""
        return at_todays_speed(1.0, self.ratio if self.of_references is None else self.of_references)

    @property
    def measured_s(self) -> np.ndarray:
        """The lower of the two measurements: noise only adds."""
        return np.minimum(self.first_s, self.second_s)

    @property
    def predicted_s(self) -> np.ndarray:
        """What the table predicts, scaled to the machine's present speed."""
        return self.table_s * self.slower

    @property
    def floor(self) -> np.ndarray:
        """The relative difference of the two measurements of every network."""
        return np.abs(self.first_s - self.second_s) / self.measured_s

    def as_json(self) -> dict[str, Any]:
        """What --json prints; errors are relative to the measured time."""
        return {"networks": [{"predicted_s": float(p), "measured_s": float(m)}
                             for p, m in zip(self.predicted_s, self.measured_s)],
                **self._summary(self.predicted_s),
                "probe_now_over_then": self.ratio, "references_now_over_then": self.of_references,
                "without_probe": self._summary(self.table_s),
                "uncorrected": self._summary(self.sums_s * self.slower),
                "unsettled_networks": self.unsettled,
                "floor": {"mean_abs_error": float(self.floor.mean()), "max_abs_error": float(self.floor.max())}}

    def lines(self) -> Iterator[str]:
        """For people: a line per network, then the figures."""
        rows = zip(self.predicted_s, self.measured_s, self.sums_s * self.slower)
        for number, (predicted, measured, plain) in enumerate(rows, 1):
            yield (f"{number:4d}   predicted {predicted * 1e3:9.3f} ms   measured {measured * 1e3:9.3f} ms   "
                   f"{predicted / measured - 1:+6.1%}   (uncorrected {plain / measured - 1:+6.1%})")
        yield (f"floor, two measurements of the same networks: mean {self.floor.mean():.2%}, maximum "
               f"{self.floor.max():.2%}")
        if self.unsettled:
            yield (f"a noisy machine: {self.unsettled} of {len(self.first_s)} networks did not settle (--spread, "
                   "--drift); validate again when it is quiet")
        yield f"without the correction in the note: {_summary_words(self._summary(self.sums_s * self.slower))}"
        yield f"{self._speed()}; without that: {_summary_words(self._summary(self.table_s))}"
        yield f"validate: {_summary_words(self._summary(self.predicted_s))}"

    def _speed(self) -> str:
        """The machine's speed now, in words."""
        if self.of_references is not None:
            return about_ratio(self.of_references, "whole networks of the build take")
        return about_probe(self.ratio) if self.ratio else "the probe is not compared: the table was measured otherwise"

    def _summary(self, predicted_s: np.ndarray) -> dict[str, Any]:
        error = np.abs(predicted_s / self.measured_s - 1)
        varied = np.ptp(predicted_s) > 0 and np.ptp(self.measured_s) > 0  # else there is no correlation
        return {"mean_abs_error": float(error.mean()), "max_abs_error": float(error.max()),
                "correlation": float(np.corrcoef(predicted_s, self.measured_s)[0, 1]) if varied else None}


def _summary_words(summary: Mapping[str, Any]) -> str:
    correlation = "unknown" if summary["correlation"] is None else f"{summary['correlation']:.5f}"
    return (f"mean |error| {summary['mean_abs_error']:.2%}, maximum {summary['max_abs_error']:.2%}, "
            f"correlation {correlation}")


def validate(network: Network, table: LatencyTable, note: Note, networks: Sequence[Widths], runner: Runner,
             care: Care, *, num_images: int, same_machine: bool) -> Validation:
    """Time every network twice, as a .tflite file and all in random order, and predict its time with the table.

    The session waits, up to the patience, until the machine is as fast as when the table was measured. table: as
    measured, seconds; note: the table's, with its correction and its probe; num_images: per inference; same_machine:
    whether the table was measured as it is judged now, so that the probes can be compared. Raises UserError if a
    network cannot be timed.
    """
    summed = corrected(network, table, correction_in(note))
    sums, table_s = (np.array([latency_s(network, w, t) for w in networks]) for t in (table, summed))
    then_s = probe_in(note) if same_machine else None
    known = references_in(note if same_machine else {}, network)
    count = len(networks)
    visits = Visits(2 * (count + len(known.again)), care.max_visits, then_s or np.inf)
    with tempfile.TemporaryDirectory() as folder:
        paths = 2 * _write(Path(folder), network, [*networks, *known.again], num_images)
        probe = patiently(lambda: variant(num_images, *probe_entry(network)), runner, "probe")
        Session(care, visits, lambda item: patiently(lambda: paths[item], runner, paths[item].name), probe).run(
            "timing whole networks")
    seconds, unsettled = (by_item.reshape(2, -1) for by_item in (visits.result(care), visits.unsettled(care)))
    first, second = seconds[:, :count]
    return Validation(table_s, sums, first, second, visits.usual_s / then_s if then_s else None,
                      int(unsettled[:, :count].any(0).sum()),
                      known.now_over_then(lambda w: latency_s(network, w, summed), seconds.min(0)[count:])
                      if known.again else None)


def _write(folder: Path, network: Network, networks: Sequence[Widths], num_images: int) -> list[Path]:
    paths = [folder / f"network_{i}.tflite" for i in range(len(networks))]
    for path, widths in zip(paths, networks):
        path.write_bytes(whole_network(num_images, network, widths))
    return paths
