"""Scripts of this project run one after another in this process, as a shell would: what a comparison's workers do."""

import os
import runpy
import shlex
import sys
import traceback
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Iterator, Tuple

Command = Tuple[str, ...]  # a script's path, and its flags


@dataclass(frozen=True)
class Job:
    name: str
    folder: str  # where the commands run
    log: str  # file that takes what they print, after each command itself
    commands: Tuple[Command, ...]


@dataclass(frozen=True)
class Outcome:
    name: str
    code: int  # exit code of the command that failed; 0: none did


def carry_out(job: Job) -> Outcome:
    """Run the commands until one fails. Ctrl-C raises KeyboardInterrupt."""
    here, argv = os.getcwd(), sys.argv
    try:
        os.chdir(job.folder)
        with open(job.log, "a") as log, _printing_to(log):
            for command in job.commands:
                code = _run(command, log)
                if code == 130:
                    raise KeyboardInterrupt
                if code:
                    return Outcome(job.name, code)
    finally:
        os.chdir(here)
        sys.argv = argv
    return Outcome(job.name, 0)


def last_line(log: Path) -> str:
    """The last line of a log: what a script that failed says."""
    lines = [line.strip() for line in Path(log).read_text(errors="replace").replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"


def _run(command: Command, log: IO[str]) -> int:
    script, *flags = command
    sys.argv = [Path(script).name, *flags]
    log.write(f"\n$ python {shlex.join(sys.argv)}\n")
    log.flush()
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except Exception:  # a fault of a script's own; the next job can still be done
        traceback.print_exc()
        return 1
    return 0


@contextmanager
def _printing_to(file: IO[str]) -> Iterator[None]:
    """Everything that this process prints goes to the file, C++ libraries included."""
    sys.stdout.flush()
    kept = os.dup(1), os.dup(2)
    for number in (1, 2):
        os.dup2(file.fileno(), number)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, descriptor in zip((1, 2), kept):
            os.dup2(descriptor, number)
            os.close(descriptor)
