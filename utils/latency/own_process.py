"""LiteRT in a process of its own, so that a model that crashes the runtime takes nothing else along.

The two processes speak over the child's standard streams: a line of JSON each way, and behind the request to open a
model its bytes. The child times; it starts with the first request, again after a crash, and ends with its parent.

    {"describe": true}                    -> {"found": {"runtime": ..., "version": ..., "threads": ...}}
    {"open": path or null, "bytes": n}    -> {"found": {"model": number, "delegate": ...}}
    {"time": number, "runs": n}           -> {"found": [seconds, ...]}

Every request may also name models to "close". An answer {"refused": reason} becomes a BenchmarkError, {"error": line} a
UserError. Runs on Python 3.9 with NumPy.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path
from typing import IO, Any, Optional

from utils.common.errors import UserError
from utils.latency.runners import BenchmarkError, LiteRTRunner, Model, Opened

START = "import sys; sys.path[:] = sys.argv[2:]; from utils.latency.own_process import serve; serve(int(sys.argv[1]))"
LAST_LINES = 3  # of what a crashing runtime printed, shown to the user


class OwnProcess:
    """A Runner: LiteRT in a process of its own. A model that was open when another one crashed it is opened again."""

    def __init__(self, num_threads: int):
        self.num_threads = num_threads
        self._process: Optional[subprocess.Popen] = None
        self._printed: Optional[IO[bytes]] = None  # by the process, on stderr
        self._crashes = 0
        self._closed: list[int] = []  # models that nobody uses any more

    def describe(self) -> dict[str, Any]:
        try:
            return self._ask({"describe": True})
        except BenchmarkError as error:
            raise UserError(f"{error}, when it was imported; install another version of it, or time files with the "
                            "benchmark_model binary (--mode=load --benchmark_lite_loc)") from error

    def open(self, model: Model) -> Opened:
        found = _Remote(self, model)
        return Opened(found.time, found.delegate)

    def load(self, model: Model) -> dict[str, Any]:
        if isinstance(model, bytes):
            return self._ask({"open": None, "bytes": len(model)}, model)
        return self._ask({"open": str(model)})

    def time(self, number: int, runs: int) -> list[float]:
        return self._ask({"time": number, "runs": runs})

    @property
    def crashes(self) -> int:
        """How often a process ended: a model that was opened before is gone."""
        return self._crashes

    def close_later(self, number: int, crashes: int) -> None:
        """Close a model with the next request, if the process is still the one that has it."""
        if crashes == self._crashes:
            self._closed.append(number)

    def _ask(self, request: dict[str, Any], content: bytes = b"") -> Any:
        if self._process is None:
            self._start()
        process = self._process
        assert process and process.stdin and process.stdout
        closed, self._closed = self._closed, []
        try:
            process.stdin.write(json.dumps({**request, "close": closed}).encode() + b"\n")
            process.stdin.write(content)
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = b""
        if not answer.endswith(b"\n"):
            raise BenchmarkError(self._bury())
        found = json.loads(answer)
        if "error" in found:
            raise UserError(found["error"])
        if "refused" in found:
            raise BenchmarkError(found["refused"])
        return found["found"]

    def _start(self) -> None:
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115  it is closed when the process has ended
        self._process = subprocess.Popen(
            [sys.executable, "-c", START, str(self.num_threads), *sys.path], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=self._printed, start_new_session=True)  # Ctrl-C is this process's to answer
        weakref.finalize(self, _end, self._process)

    def _bury(self) -> str:
        """How the process ended, in words; the next request starts another."""
        process, self._process = self._process, None
        self._crashes, self._closed = self._crashes + 1, []
        assert process and self._printed
        code = process.wait()
        _end(process)
        self._printed.seek(0)
        lines = [line.strip() for line in self._printed.read().decode(errors="replace").splitlines() if line.strip()]
        self._printed.close()
        said = "; its last lines: " + " | ".join(lines[-LAST_LINES:]) if lines else ""
        return f"the runtime crashed: {_how(code)}{said}"


def _end(process: subprocess.Popen) -> None:
    """End a process that nobody asks any more, if it goes on."""
    if process.returncode is None:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


class _Remote:
    """A model that is open in the process of a runner."""

    def __init__(self, runner: OwnProcess, model: Model):
        self.runner, self.model = runner, model
        self.delegate: Optional[str] = None
        self._load()

    def _load(self) -> None:
        found = self.runner.load(self.model)
        self.number, self.crashes, self.delegate = found["model"], self.runner.crashes, found["delegate"]
        weakref.finalize(self, self.runner.close_later, self.number, self.crashes).atexit = False

    def time(self, runs: int) -> list[float]:
        if self.crashes != self.runner.crashes:  # another model crashed the process that had this one
            self._load()
        return self.runner.time(self.number, runs)


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    names = {s.value: s.name for s in signal.Signals}
    return f"signal {names.get(-code, -code)}" + (", which a lack of memory sends" if -code == signal.SIGKILL else "")


# --- the child -------------------------------------------------------------------------------------------------

def serve(num_threads: int) -> None:
    """Answer requests until the parent closes this process's stdin. What a runtime prints goes to stderr."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    runner, models, number = LiteRTRunner(num_threads), {}, 0
    for line in requests:
        request = json.loads(line)
        for closed in request["close"]:
            models.pop(closed, None)
        try:
            if "describe" in request:
                found: Any = runner.describe()
            elif "open" in request:
                path = request["open"]
                model = requests.read(request["bytes"]) if path is None else Path(path)
                number += 1
                models[number] = runner.open(model)
                found = {"model": number, "delegate": models[number].delegate}
            else:
                found = models[request["time"]].time(request["runs"])
            answer = {"found": found}
        except BenchmarkError as error:
            answer = {"refused": str(error)}
        except UserError as error:
            answer = {"error": str(error)}
        except MemoryError as error:
            answer = {"refused": f"too little memory ({error})"}
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()
