"""Time a .tflite model with TensorFlow Lite's benchmark_model binary, and read what it prints.

For a tool that prints otherwise, extend ``parse_output``. Runs on Python 3.9, with the standard library alone.
"""

import math
import os
import re
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from utils.common.errors import UserError
from utils.latency.runners import BenchmarkError, Model, Timer

LAST_LINES = 4  # of a failing tool's output, shown to the user


@dataclass(frozen=True)
class BinaryRunner:
    """Runs the binary directly, without a shell, once per file."""

    binary: Path
    num_threads: int
    timeout_s: float

    def describe(self) -> dict[str, Any]:
        return {"runtime": "benchmark_model", "binary": self.binary.name, "binary_bytes": self.binary.stat().st_size,
                "threads": self.num_threads}

    def open(self, model: Model) -> Timer:
        return partial(self._time, model)

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
        return [parse_output(output)]


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


def parse_output(output: str) -> float:
    """Seconds per inference from the output of benchmark_model (TensorFlow 1.13, 2.x, LiteRT 2.x), in microseconds.

    Takes the last ``count=`` line: the median if the line has one, else the mean. The line before it is the warm-up;
    what follows it (a memory footprint in newer versions) is no time. Raises BenchmarkError if there is no time.
    """
    average = re.search(r"no stats: ([\d.e+]+)|Inference \(avg\): ([\d.e+]+)", output)
    counts = re.findall(r"count=\d+ .*", output)
    if not average or not counts:
        raise BenchmarkError(f"the tool printed no timing{_last_lines(output)}")
    found = dict(re.findall(r"(\w+)=(\S+)", counts[-1]))
    mean = found.get("avg") or average.group(1) or average.group(2)
    text = found.get("median", mean)
    if text == "0":  # percentiles are printed in whole microseconds
        text = mean
    try:
        seconds = float(text) / 1e6
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise BenchmarkError(f"the tool printed {text!r} as its time{_last_lines(output)}")
    return seconds


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
