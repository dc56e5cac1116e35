"""The board's temperature and throttling, from the kernel's files; a machine without them reads as neither."""

from dataclasses import dataclass
from pathlib import Path
from typing import Optional

SYS = Path("/sys")
# Bits 0 to 3 of the Raspberry Pi firmware's get_throttled: what holds now (16 to 19: what has happened since boot).
THROTTLED_BITS = ("under-voltage", "frequency capped", "throttled", "soft temperature limit")


@dataclass(frozen=True)
class Reading:
    temperature_c: Optional[float]  # of the processor, degrees Celsius; None: not known
    throttled: tuple[str, ...]  # what slows the processor now, in words


def read(root: Path = SYS) -> Reading:
    """What the kernel says now; ``root`` is where its files are mounted."""
    celsius = [value / 1000 for value in map(_read_number, sorted(root.glob("class/thermal/thermal_zone*/temp")))
               if value is not None]
    bits = _read_number(root / "devices/platform/soc/soc:firmware/get_throttled", 16) or 0
    return Reading(max(celsius, default=None), tuple(w for i, w in enumerate(THROTTLED_BITS) if bits >> i & 1))


def _read_number(path: Path, base: int = 10) -> Optional[int]:
    try:
        return int(path.read_text().strip(), base)
    except (OSError, ValueError):  # a sensor that is switched off answers with an error
        return None
