"""A table's note, NAME.json beside NAME.pickle: on which machine, with which tool and how the table was measured, and
its correction. Users edit notes by hand, so everything that is read here is checked.
"""

import contextlib
import datetime
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from utils.latency.runners import Runner

FORMAT = 1
MOST_DRIFT = 1.3  # a factor: one machine's speed may differ by so much between two sessions

Note = Mapping[str, Any]


@dataclass(frozen=True)
class Correction:
    """A network of n layers takes factor * (sum of its entries - (n - 1) * overhead_s): correction.py finds both."""

    factor: float
    overhead_s: float  # of an invocation of a single layer


# --- written ---------------------------------------------------------------------------------------------------

def this_machine() -> dict[str, str]:
    """A board's model where the kernel knows it, and the processor."""
    about = {"machine": platform.machine()}
    with contextlib.suppress(OSError):
        about["model"] = Path("/proc/device-tree/model").read_text().strip("\0\n ")
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for field in ("model name", "Model"):
        for line in lines:
            if line.startswith(field):
                about["processor"] = line.split(":", 1)[1].strip()
    return about


def time_of_day() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def how_measured(runner: Runner, num_images: int = 1) -> dict[str, Any]:
    """The tool, machine and number of images of a measurement made now, under a note's keys."""
    return {**runner.describe(), "num_images": num_images, "device": this_machine()}


# --- read ------------------------------------------------------------------------------------------------------

def plain_dict(value: Any) -> dict[str, Any]:
    """``value`` where it is a dict, else {}."""
    return value if isinstance(value, dict) else {}


def correction_in(note: Note) -> Optional[Correction]:
    """The correction in a note; None if there is none, or it is not plausible."""
    found = plain_dict(note.get("correction"))
    factor, overhead_s = _within(found.get("factor"), 0.1, 10), _within(found.get("overhead_s"), 0, 1)
    return None if factor is None or overhead_s is None else Correction(factor, overhead_s)


def probe_in(note: Note) -> Optional[float]:
    """The usual seconds of the probe while a table was measured; None if the note lacks them."""
    return _within(plain_dict(note.get("probe")).get("usual_s"), 1e-9, 1e3)


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


def _within(value: Any, low: float, high: float) -> Optional[float]:
    """``value`` where it is a number in low..high."""
    sound = isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
    return float(value) if sound else None


# --- is it this machine, measured as now? ----------------------------------------------------------------------

def differences(note: Note, now: Note) -> Iterator[str]:
    """Yield, in words, what differs between a table's measurement and ``now``: runtime, version, threads, device."""
    for key, value in now.items():
        if key in note and note[key] != value:
            yield f"measured with {key} {_plainly(note[key])}, judged with {_plainly(value)}"


def _plainly(value: Any) -> str:
    return ", ".join(map(str, value.values())) if isinstance(value, dict) else str(value)


def alike(ratio: Optional[float]) -> bool:
    """Whether both may be one machine. ratio: the probe's time now over its time then; None: not known."""
    return ratio is not None and 1 / MOST_DRIFT < ratio < MOST_DRIFT


def at_todays_speed(seconds: float, ratio: Optional[float]) -> float:
    """A table's prediction, scaled to the machine's present speed unless the probe shows another machine."""
    return seconds * ratio if ratio is not None and alike(ratio) else seconds
