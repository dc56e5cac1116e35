"""The board's temperature, and what slows its processor, from wherever its system tells them.

Raspberry Pi systems tell throttling in one of three places: a file of the kernel (until 2025, and never on a Pi 5), the
program ``vcgencmd``, and a sensor of the supply voltage alone. A machine that tells nothing is read as None: nobody
knows, which is not the same as fine.
"""

import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional

SYS = Path("/sys")
# Bits 0 to 3 of the firmware's get_throttled: what holds now. Bits 16 to 19: what has happened since boot.
THROTTLED_BITS = ("under-voltage", "frequency capped", "throttled", "soft temperature limit")
ASK_EVERY_S = 5.0  # vcgencmd takes some ms of a processor that is being measured
ANSWER_S = 2.0


@dataclass(frozen=True)
class Throttling:
    """What slows the processor, in words of THROTTLED_BITS."""

    now: tuple[str, ...]
    since_boot: Optional[tuple[str, ...]]  # None: this place does not tell
    told_by: str


@dataclass(frozen=True)
class Reading:
    temperature_c: Optional[float]  # of the hottest sensor, degrees Celsius; None: not known
    throttling: Optional[Throttling]  # None: not known

    @property
    def throttled(self) -> tuple[str, ...]:
        """What slows the processor now, as far as anybody tells."""
        return self.throttling.now if self.throttling else ()


def reader(root: Path = SYS, clock: Callable[[], float] = time.monotonic) -> Callable[[], Reading]:
    """A function that reads the sensors now, and asks vcgencmd every ASK_EVERY_S.

    root: where the kernel's files are.
    """
    program, answer, asked_at = shutil.which("vcgencmd"), None, -ASK_EVERY_S

    def read() -> Reading:
        nonlocal answer, asked_at
        found = _from_kernel(root)
        if found is None and program:
            if clock() - asked_at >= ASK_EVERY_S:
                answer, asked_at = _ask(program), clock()
            found = answer
        return Reading(max((t for t, _ in _zones(root)), default=None), found or _from_voltage(root))

    return read


def critical_c(root: Path = SYS) -> Optional[float]:
    """The temperature at which the hottest sensor's kernel switches the machine off; None: not told."""
    zones = _zones(root)
    return max(zones, key=lambda zone: zone[0])[1] if zones else None


def _zones(root: Path) -> list[tuple[float, Optional[float]]]:
    """(temperature, critical temperature) of every sensor that answers, degrees Celsius."""
    found = []
    for zone in sorted(root.glob("class/thermal/thermal_zone*")):
        now = _read_number(zone / "temp")
        if now is not None:
            trips = [_read_number(kind.with_name(kind.name.replace("_type", "_temp")))
                     for kind in sorted(zone.glob("trip_point_*_type")) if _read_text(kind) == "critical"]
            limits = [trip / 1000 for trip in trips if trip is not None and trip > 0]
            found.append((now / 1000, min(limits, default=None)))
    return found


def _from_kernel(root: Path) -> Optional[Throttling]:
    bits = _read_number(root / "devices/platform/soc/soc:firmware/get_throttled", 16)
    return None if bits is None else _in_words(bits, "the kernel's get_throttled")


def _ask(program: str) -> Optional[Throttling]:
    try:
        done = subprocess.run([program, "get_throttled"], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, timeout=ANSWER_S, check=True)
        return _in_words(int(done.stdout.decode().strip().rpartition("throttled=")[2], 16), "vcgencmd")
    except (OSError, ValueError, subprocess.SubprocessError):  # no such board, or no right to ask
        return None


def _from_voltage(root: Path) -> Optional[Throttling]:
    for sensor in sorted(root.glob("class/hwmon/hwmon*")):
        alarm = _read_number(sensor / "in0_lcrit_alarm") if _read_text(sensor / "name") == "rpi_volt" else None
        if alarm is not None:
            return Throttling(THROTTLED_BITS[:1] if alarm else (), None, "rpi_volt, of under-voltage alone")
    return None


def _in_words(bits: int, told_by: str) -> Throttling:
    now, since_boot = (tuple(word for i, word in enumerate(THROTTLED_BITS) if bits >> (first + i) & 1)
                       for first in (0, 16))
    return Throttling(now, since_boot, told_by)


def _read_number(path: Path, base: int = 10) -> Optional[int]:
    try:
        return int(path.read_text().strip(), base)
    except (OSError, ValueError):  # a sensor that is switched off answers with an error
        return None


def _read_text(path: Path) -> Optional[str]:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None
