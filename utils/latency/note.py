"""A table's note, NAME.json beside NAME.pickle: on which machine, with which tool and how the table was measured, and
its correction. Users edit notes by hand, so everything that is read here is checked.
"""

import contextlib
import datetime
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Optional

from model.architectures import describe
from model.network import Network
from utils.common.journal import Record
from utils.common.output import remark
from utils.common.provenance import stamp
from utils.latency import writing
from utils.latency.benchmark_tool import BinaryRunner
from utils.latency.board import this_machine
from utils.latency.entries import Entries
from utils.latency.runners import BenchmarkError, Runner, Untimed

FORMAT = 3  # the newest that is read; a note has the lowest that tells its correction (stamped)
MOST_DRIFT = 1.3  # a factor: one machine's speed may differ by so much between two sessions
COMPARED = ("device", "runtime", "version", "delegate", "threads", "num_images", "binary", "binary_bytes",
            "visit_statistic")  # of two measurements: figures compare where these are the same

Note = Mapping[str, Any]


@dataclass(frozen=True)
class Correction:
    """A network of n layers and w filter weights takes factor * (sum of its entries - (n - 1) * overhead_s) + weight_s
    * max(w - cached_weights, 0): correction.py finds the four."""

    factor: float
    overhead_s: float  # of an invocation of a single layer
    weight_s: float = 0.0  # of a weight that a single layer, run again and again, finds in a cache
    cached_weights: float = 0.0  # that a whole network finds there, too


def stamped(about: Record) -> Record:
    """A note's content, with its format and who made it."""
    found = plain_dict(about.get("correction"))
    return {**about, **stamp(1 if not found.get("weight_s") else 2 if not found.get("cached_weights") else FORMAT)}


# --- written ---------------------------------------------------------------------------------------------------

def time_of_day() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def how_measured(runner: Runner, num_images: int = 1) -> dict[str, Any]:
    """The tool, machine and number of images of a measurement made now, under a note's keys."""
    return {**about_tool(runner), "num_images": num_images, "device": this_machine()}


def about_tool(runner: Runner) -> dict[str, Any]:
    """What the tool is, with the kernels that it uses by itself ("delegate") and the statistic that it prints, where a
    small model shows them. Raises UserError if the tool is missing."""
    about = runner.describe()
    if not writing.tflite_writer():
        return about
    small = writing.variant(1, *Entries(describe("res", depth=10, width=0.0625))[0])
    with contextlib.suppress(BenchmarkError, Untimed):  # the first model that counts will show what is wrong
        if isinstance(runner, BinaryRunner):
            return about if runner.statistic else runner.held(lambda: small, "").describe()
        delegate = runner.open(small).delegate
        about.update({"delegate": delegate} if delegate else {})
    return about


# --- read ------------------------------------------------------------------------------------------------------

def plain_dict(value: Any) -> dict[str, Any]:
    """``value`` where it is a dict, else {}."""
    return value if isinstance(value, dict) else {}


def network_in(note: Note) -> Optional[Network]:
    """The network that the table was measured for; None if the note does not tell it."""
    try:
        return describe(**note["network"])
    except Exception:  # a note that was edited by hand raises many kinds
        return None


def correction_in(note: Note) -> Optional[Correction]:
    """The correction in a note; None if there is none, or it is not plausible."""
    found = plain_dict(note.get("correction"))
    factor, overhead_s = number_within(found.get("factor"), 0.1, 10), number_within(found.get("overhead_s"), 0, 1)
    weight_s = number_within(found.get("weight_s", 0.0), 0, 1e-3)
    cached = number_within(found.get("cached_weights", 0.0), 0, 1e12)
    if factor is None or overhead_s is None or weight_s is None or cached is None:
        return None
    return Correction(factor, overhead_s, weight_s, cached)


def probe_in(note: Note) -> Optional[float]:
    """The usual seconds of the probe while a table was measured; None if the note lacks them."""
    return number_within(plain_dict(note.get("probe")).get("usual_s"), 1e-9, 1e3)


def threads_in(note: Note) -> int:
    """The threads that a table was measured with; 1 if the note lacks them."""
    found = note.get("threads")
    return found if isinstance(found, int) and not isinstance(found, bool) and 0 < found <= 256 else 1


def origin_in(note: Note) -> str:
    """The device and the runtime that a table was measured with, in words; '' if the note lacks them. For a merged
    table: those of its first measurement."""
    merged = note.get("measurements")
    source = plain_dict(merged[0] if isinstance(merged, list) and merged else note)
    device = plain_dict(source.get("device"))
    return ", ".join(str(w) for w in (device.get("model") or device.get("processor"), source.get("runtime")) if w)


def number_within(value: Any, low: float, high: float) -> Optional[float]:
    """``value`` where it is a number in low..high."""
    sound = isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
    return float(value) if sound else None


# --- is it this machine, measured as now? ----------------------------------------------------------------------

def differences(note: Note, now: Note, done_now: str = "judged") -> Iterator[str]:
    """Yield, in words, what differs between a table's measurement and another one, ``now``, among COMPARED."""
    for key in COMPARED:
        if key in note and key in now and note[key] != now[key]:
            yield f"measured with {key} {_plainly(note[key])}, {done_now} with {_plainly(now[key])}"


def reported_differences(name: Any, note: Note, now: Note, done_now: str = "judged") -> list[str]:
    """``differences``, printed on stderr under the table's name. What one of the two does not tell counts as equal, and
    is reported, too."""
    found = list(differences(note, now, done_now))
    for line in found:
        print(f"{name}: {line}", file=sys.stderr)
    untold = [key for key in COMPARED if (key in note) != (key in now)] if note else []
    if untold:
        remark(f"note: {name}: not told, and taken to be equal: {', '.join(untold)}")
    return found


def _plainly(value: Any) -> str:
    return ", ".join(map(str, value.values())) if isinstance(value, dict) else str(value)


def alike(ratio: Optional[float]) -> bool:
    """Whether both may be one machine. ratio: the probe's time now over its time then; None: not known."""
    return ratio is not None and 1 / MOST_DRIFT < ratio < MOST_DRIFT


def at_todays_speed(seconds: float, ratio: Optional[float]) -> float:
    """A table's prediction, scaled to the machine's present speed unless the probe shows another machine."""
    return seconds * ratio if ratio is not None and alike(ratio) else seconds
