"""The board: what it is, and in which state it is while something is measured on it."""

import contextlib
import os
import platform
import struct
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Optional

from utils.latency import sensors
from utils.latency.sensors import Throttling

ROOT = Path("/")
PI_THROTTLES_C = 80.0  # every Raspberry Pi lowers its clock there
MARGIN_C = 10.0  # a measurement pauses this much below
MOST_LOAD = 0.3  # programs that run beside, on average, without a word about them
LEAST_FREE_MB = 200
POWER = "use a power supply made for the board, and a short cable"
COOLING = "give the board a heat sink or a fan"
REMEDIES = {"under-voltage": POWER, "frequency capped": POWER, "throttled": COOLING, "soft temperature limit": COOLING}


def this_machine(root: Path = ROOT) -> dict[str, str]:
    """A board's model where the kernel knows it, and the processor."""
    about = {"machine": platform.machine()}
    with contextlib.suppress(OSError):
        about["model"] = (root / "proc/device-tree/model").read_text().strip("\0\n ")
    lines = _lines(root / "proc/cpuinfo")
    for field in ("model name", "Model"):
        for line in lines:
            if line.startswith(field):
                about["processor"] = line.split(":", 1)[1].strip()
    return about


@dataclass(frozen=True)
class Conditions:
    """The state of a machine now; None, or no values: not known."""

    kernel: str
    python: str  # its version
    python_bits: int  # 32 or 64
    cores: int
    affinity: tuple[int, ...]  # cores that this process may use
    governors: tuple[str, ...]  # of the clocks
    clocks_mhz: tuple[float, ...]  # now
    clock_limits_mhz: tuple[float, ...]  # lowest and highest
    load: Optional[float]  # programs that wanted to run during the last minute, on average
    memory_mb: Optional[float]
    free_mb: Optional[float]
    temperature_c: Optional[float]
    critical_c: Optional[float]
    throttling: Optional[Throttling]

    def as_json(self) -> dict[str, Any]:
        """For a note."""
        return asdict(self)


def conditions(root: Path = ROOT) -> Conditions:
    """The state of this machine. root: where its files are mounted."""
    reading, memory = sensors.reader(root / "sys")(), _memory_mb(root)
    policies = sorted((root / "sys/devices/system/cpu/cpufreq").glob("policy*"))
    limits = [*_mhz(policies, "scaling_min_freq"), *_mhz(policies, "scaling_max_freq")]
    cores = os.cpu_count() or 1
    affinity = tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else tuple(range(cores))
    return Conditions(
        kernel=platform.release(), python=platform.python_version(), python_bits=8 * struct.calcsize("P"), cores=cores,
        affinity=affinity, governors=tuple(sorted({g for p in policies for g in _lines(p / "scaling_governor")})),
        clocks_mhz=tuple(_mhz(policies, "scaling_cur_freq")),
        clock_limits_mhz=(min(limits), max(limits)) if limits else (), load=_load(root),
        memory_mb=memory.get("MemTotal"), free_mb=memory.get("MemAvailable"), temperature_c=reading.temperature_c,
        critical_c=sensors.critical_c(root / "sys"), throttling=reading.throttling)


def max_temp_c(device: Mapping[str, str], critical_c: Optional[float]) -> Optional[float]:
    """The temperature above which a measurement pauses, if none is asked for; None: this machine needs no pause, as far
    as anybody knows. device: from ``this_machine``."""
    if device.get("model", "").startswith("Raspberry Pi"):
        return PI_THROTTLES_C - MARGIN_C
    return None if critical_c is None else critical_c - MARGIN_C


def default_max_temp_c() -> Optional[float]:
    """``max_temp_c`` of this machine."""
    return max_temp_c(this_machine(), sensors.critical_c())


# --- in words --------------------------------------------------------------------------------------------------

def in_words(device: Mapping[str, str], now: Conditions) -> Iterator[tuple[str, str]]:
    """Yield what is known: (subject, words)."""
    name = device.get("model") or device.get("processor") or "a machine without a name"
    yield "board", f"{name}, {device['machine']}, {now.cores} cores"
    yield "system", f"kernel {now.kernel}, Python {now.python} of {now.python_bits} bit"
    limits = " to ".join(f"{mhz:.0f}" for mhz in now.clock_limits_mhz)
    clocks = ", ".join(f"{mhz:.0f}" for mhz in now.clocks_mhz)
    yield "clock", (f"governor {', '.join(now.governors)}; {limits} MHz, now {clocks}" if now.governors else
                    "the governor is not known")
    heat = "not known" if now.temperature_c is None else f"{now.temperature_c:.0f} °C"
    yield "temperature", heat + (f", critical at {now.critical_c:.0f} °C" if now.critical_c else "")
    yield "throttling", throttling_in_words(now.throttling)
    yield "load", (f"{_known(now.load, '.2f')} programs wanting to run; {_known(now.free_mb, ',.0f')} MB of "
                   f"{_known(now.memory_mb, ',.0f')} free")


def throttling_in_words(throttling: Optional[Throttling]) -> str:
    if throttling is None:
        return "not known: no place of this system tells it"
    since = "not known" if throttling.since_boot is None else ", ".join(throttling.since_boot) or "none"
    return f"now {', '.join(throttling.now) or 'none'}; since boot {since} (by {throttling.told_by})"


def governor_advice(now: Conditions) -> Iterator[str]:
    """Yield a line where the clock may change with the load."""
    slow = [governor for governor in now.governors if governor != "performance"]
    if slow:
        yield (f"the governor {', '.join(slow)} changes the clock while layers run: echo performance | "
               "sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor")


def advice(device: Mapping[str, str], now: Conditions, num_threads: int) -> Iterator[str]:
    """Yield what the user should change before something is measured, and how."""
    yield from governor_advice(now)
    if now.throttling:
        for word in now.throttling.now:
            yield f"the processor is slowed down now ({word}): {REMEDIES[word]}"
        for word in (w for w in now.throttling.since_boot or () if w not in now.throttling.now):
            yield f"the processor was slowed down since boot ({word}): {REMEDIES[word]}, then boot anew"
    limit = max_temp_c(device, now.critical_c)
    if limit and now.temperature_c is not None and now.temperature_c > limit - MARGIN_C:
        yield f"{now.temperature_c:.0f} °C before anything runs, and measurements pause above {limit:.0f}: {COOLING}"
    if now.load is not None and now.load > MOST_LOAD:
        yield f"other programs run (load {now.load:.2f}): stop them; `top` names them"
    if now.free_mb is not None and now.free_mb < LEAST_FREE_MB:
        yield f"only {now.free_mb:.0f} MB of memory are free: stop other programs"
    if now.python_bits == 32 and device["machine"] in ("aarch64", "x86_64"):
        yield "Python has 32 bits on a kernel of 64: a 64-bit system has faster kernels for layers"
    if num_threads > len(now.affinity):
        yield f"--num_threads={num_threads}, but this process may use {len(now.affinity)} cores: ask for no more"


def _known(value: Optional[float], form: str) -> str:
    return "an unknown number of" if value is None else format(value, form)


# --- the system's files ----------------------------------------------------------------------------------------

def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


def _mhz(policies: list[Path], name: str) -> list[float]:
    return [int(line) / 1000 for policy in policies for line in _lines(policy / name) if line.strip().isdigit()]


def _load(root: Path) -> Optional[float]:
    try:
        return float(_lines(root / "proc/loadavg")[0].split()[0])
    except (IndexError, ValueError):
        return None


def _memory_mb(root: Path) -> dict[str, float]:
    fields = (line.split() for line in _lines(root / "proc/meminfo"))
    return {words[0].rstrip(":"): int(words[1]) / 1024 for words in fields if len(words) > 1 and words[1].isdigit()}
