"""Time a .tflite model with TensorFlow Lite's or LiteRT's benchmark_model binary, and read what it prints.

For a tool that prints otherwise, extend ``parse_output``. Runs on Python 3.9, with the standard library alone.
"""

import os
import re
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Callable, Optional

from utils.common.errors import UserError
from utils.latency.runners import BenchmarkError, Model, Opened, patiently

LAST_LINES = 4  # of a failing tool's output, shown to the user
CREATED = "Created TensorFlow Lite XNNPACK delegate"  # what a tool prints that uses it; others are silent
LONGEST = 1000  # characters of a line with times
PROBED_RUNS = 2  # of the model that shows which statistic the tool prints
STATISTICS = ("median", "min", "mean")  # of the tool's timed runs, the best first: one slow run spoils a mean
UNITS = {"us": Decimal("1e-6"), "µs": Decimal("1e-6"), "μs": Decimal("1e-6"), "ms": Decimal("1e-3"), "s": Decimal(1),
         "ns": Decimal("1e-9")}  # in seconds; TensorFlow's own first

# --- the tool --------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Figure:
    """What one run of the tool found."""

    seconds: float  # per inference
    statistic: str  # one of STATISTICS


@dataclass(frozen=True)
class BinaryRunner:
    """Runs the binary directly, without a shell, once per file."""

    binary: Path
    num_threads: int
    timeout_s: float
    statistic: Optional[str] = None  # that every figure has to be; None: any
    delegate: Optional[str] = None  # the kernels that the tool says it uses; None: not known
    watch: Callable[[Figure, Optional[str]], None] = lambda figure, delegate: None  # is called with every figure

    def describe(self) -> dict[str, Any]:
        found = {"visit_statistic": self.statistic, "delegate": self.delegate}
        return {"runtime": "benchmark_model", "binary": self.binary.name, "binary_bytes": self.binary.stat().st_size,
                "threads": self.num_threads, **{key: value for key, value in found.items() if value}}

    def held(self, make: Callable[[], Model], advice: str) -> "BinaryRunner":
        """This runner, held to the statistic that the tool prints for the model that ``make()`` gives, and knowing the
        delegate that it uses.

        Raises UserError, ending in ``advice``, where that model cannot be timed.
        """
        seen: list[tuple[Figure, Optional[str]]] = []
        patiently(make, replace(self, watch=lambda *found: seen.append(found)), "probe", advice)(PROBED_RUNS)
        figure, delegate = seen[-1]
        return replace(self, statistic=figure.statistic, delegate=delegate)

    def open(self, model: Model) -> Opened:
        return Opened(partial(self._time, model))

    def _time(self, model: Model, runs: int) -> list[float]:
        if isinstance(model, bytes):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.tflite"
                path.write_bytes(model)
                return self._time(path, runs)
        command = [str(self.binary), f"--graph={model}", f"--num_threads={self.num_threads}", f"--num_runs={runs}",
                   "--min_secs=0", "--warmup_runs=1", "--warmup_min_secs=0"]
        output, code = _run(command, self.timeout_s)
        if code:
            raise BenchmarkError(f"the tool ended with {_exit_words(code)}{_last_lines(output)}")
        figure = parse_output(output)
        if self.statistic not in (None, figure.statistic):
            raise BenchmarkError(f"the tool printed the {figure.statistic} of its runs, and their {self.statistic} "
                                 "when this measurement began; one table holds one statistic")
        self.watch(figure, "XNNPACK" if CREATED in output else None)
        return [figure.seconds]


def find_binary(location: str) -> Path:
    """The binary given by --benchmark_lite_loc: a path, or a command on PATH. Raises UserError."""
    path = Path(os.path.expanduser(location))
    on_path = None if os.sep in location else shutil.which(location)
    if not path.exists() and on_path:
        path = Path(on_path)
    if not path.is_file():
        raise UserError(f"{location}: no benchmark_model binary there; check --benchmark_lite_loc, or leave it out to "
                        "measure with LiteRT in this process")
    if not os.access(path, os.X_OK):
        raise UserError(f"{path}: not executable; chmod +x {path}")
    return path.resolve()


# --- what it prints --------------------------------------------------------------------------------------------

_KEYS = {"median": "median", "min": "min", "avg": "mean"}  # the tools' word -> statistic
_UNIT = "|".join(UNITS)
_TIME = re.compile(rf"(\d{{1,20}}(?:\.\d{{0,20}})?(?:[eE][-+]?\d{{1,2}})?)({_UNIT})?[,;]?")

# A logger may have written something before these lines. A profiler's have a label: "Timings (microseconds): count=".
_COUNT_LINE = re.compile(r"(?:.*(?:\]|[^)]:) +)?count=(\d+)((?: +\w+=[^\s(]+(?:\(all same\))?)+)\s*")
_IN_WORDS = re.compile(rf"(?:.*\bin ({_UNIT}): +)?(?:.*(?:\]|[^)]:|,) +)?(?:Inference \((avg|median|min)\)|no stats): +"
                       r"(\S+)(?: +([^\W\d_]\w*))?")


@dataclass(frozen=True)
class _Printed:
    """A time as it is printed."""

    number: Decimal
    unit: str  # "" where none is stated

    def seconds(self, unit: str) -> Decimal:
        """unit: where none is stated."""
        return self.number * UNITS[self.unit or unit]

    def digit(self, unit: str) -> Decimal:
        """Seconds of the last digit."""
        return Decimal(1).scaleb(int(self.number.as_tuple().exponent)) * UNITS[self.unit or unit]

    def __str__(self) -> str:
        return f"{self.number} {self.unit or 'without a unit'}"


_Times = dict[str, _Printed]  # by statistic


def parse_output(output: str) -> Figure:
    """The time in the output of benchmark_model: of TensorFlow from 1.13 on, or of LiteRT's two tools.

    1. The timed runs have a line ``count=11 ... min=1042 ... avg=1060.45``, behind that of the warm-up. Newer ones have
       a median. A summary in words has the mean again, and sometimes more: ``Inference (avg): 1.55 ms``.
    2. A time has the unit that is printed with it, or in its line (``timings in us:``). All known summaries have one.
    3. The line's times have no unit. They have the one in which they agree with the summary, to the last digit.
    4. The best of STATISTICS that is printed is taken.

    Raises BenchmarkError where there is no time, no unit, or times contradict each other.
    """
    words, line = _in_words(output), _in_count_line(output)
    if not words:
        raise BenchmarkError(f"the tool printed no timing{_last_lines(output)}")
    if not words.keys() & line.keys():
        line = {}  # nothing tells its unit
    stated = any(time.unit for time in (*words.values(), *line.values()))
    if not stated and not (line and "no stats: " in output):  # TensorFlow 1.13's words: microseconds
        raise BenchmarkError(f"the tool printed a time without a unit{_last_lines(output)}")
    pairs = {name: (words[name], line[name]) for name in STATISTICS if name in words and name in line}
    for unit in UNITS:
        if all(_agree(*pair, unit) for pair in pairs.values()):
            return _best({**words, **line}, unit, output)
    found = "; ".join(f"{name} {one} and {other}" for name, (one, other) in pairs.items())
    raise BenchmarkError(f"the tool printed times that contradict each other ({found}){_last_lines(output)}")


def _best(times: _Times, unit: str, output: str) -> Figure:
    """The best statistic among the times. unit: of those that state none."""
    name = next(name for name in STATISTICS if name in times)
    seconds, digit = times[name].seconds(unit), times[name].digit(unit)
    least = times["min"].seconds(unit) if "min" in times else 0
    for other, time in times.items():
        if time.seconds(unit) + time.digit(unit) < least:
            raise BenchmarkError(f"the tool printed a {other} below its min, {time} and {times['min']}"
                                 f"{_last_lines(output)}")
    if not seconds and "mean" in times:  # less than the last digit, such as a microsecond: the mean tells more
        seconds = min(times["mean"].seconds(unit), digit)
    if not seconds:
        raise BenchmarkError(f"the tool printed 0 as its {name}{_last_lines(output)}")
    return Figure(float(seconds), name)


def _agree(one: _Printed, other: _Printed, unit: str) -> bool:
    return abs(one.seconds(unit) - other.seconds(unit)) <= one.digit(unit) + other.digit(unit)


def _in_words(output: str) -> _Times:
    """The times of the summary."""
    found: _Times = {}
    for match in filter(None, map(_IN_WORDS.match, _lines(output))):
        header, name, number, unit = match.groups()
        if unit and unit not in UNITS:
            raise BenchmarkError(f"the tool printed a time in {unit!r}, expected one of {', '.join(UNITS)}"
                                 f"{_last_lines(output)}")
        statistic = _KEYS[name or "avg"]
        time = _printed(statistic, number, output)
        found[statistic] = replace(time, unit=time.unit or unit or header or "")
    return _stated(found)


def _in_count_line(output: str) -> _Times:
    """The times of the timed runs: of the first line behind the header of the last runs, or of the last line."""
    _, header, rest = output.rpartition("Running benchmark for at least ")
    lines = list(filter(None, map(_COUNT_LINE.fullmatch, _lines(rest))))
    if not lines:
        return {}
    line = lines[0 if header else -1]
    fields = dict(re.findall(r"(\w+)=([^\s(]+)", line[2]))
    if "curr" in fields and (line[1] == "1" or "(all same)" in line[2]):  # then the tool prints no other
        fields = {"min": fields["curr"], "avg": fields["curr"], **fields}
    return _stated({name: _printed(name, fields[key], output) for key, name in _KEYS.items() if key in fields})


def _lines(output: str) -> list[str]:
    return [line for line in output.splitlines() if len(line) <= LONGEST]


def _stated(times: _Times) -> _Times:
    """Those that state their unit, if any does."""
    return {name: time for name, time in times.items() if time.unit} or times


def _printed(statistic: str, text: str, output: str) -> _Printed:
    """text: a number, perhaps with its unit: 1551.2, 2.11985e+06, 1.55ms."""
    match = _TIME.fullmatch(text)
    if not match:
        raise BenchmarkError(f"the tool printed {text!r} as its {statistic}{_last_lines(output)}")
    return _Printed(Decimal(match[1]), match[2] or "")


# --- running it ------------------------------------------------------------------------------------------------

def _run(command: list[str], timeout_s: float) -> tuple[str, int]:
    """(everything printed, exit code) of a command; it and its children are killed when it hangs."""
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, start_new_session=True)
    except OSError as error:  # made for another processor, say
        raise UserError(f"{command[0]}: cannot be run here ({error.strerror}); expected the benchmark_model binary "
                        "of this board") from error
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise BenchmarkError(f"the tool did not end within {timeout_s:g} s (--timeout)") from None
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if process.stdout:
                process.stdout.close()
    return output.decode(errors="replace"), process.returncode or 0


def _exit_words(code: int) -> str:
    if code > 0:
        return f"exit code {code}"
    names = {s.value: s.name for s in signal.Signals}
    return f"signal {names.get(-code, -code)}"


def _last_lines(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()][-LAST_LINES:]
    return "; its last lines: " + " | ".join(lines) if lines else "; it printed nothing"
