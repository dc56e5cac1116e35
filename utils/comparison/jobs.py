"""Run scripts of this project one after another in this process, as a shell would. A comparison's workers use it."""

import argparse
import os
import runpy
import shlex
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from utils.common.cli import STOPPED
from utils.common.files import PROJECT
from utils.common.output import printing_to

Command = tuple[str, ...]  # a script's name, and its flags


@dataclass(frozen=True)
class Job:
    name: str
    folder: str  # where the commands run
    log: str  # file for the commands and their output
    commands: tuple[Command, ...]


@dataclass(frozen=True)
class Ended:
    name: str  # of the job
    code: int  # exit code of the command that failed; 0: none did


def parser_of(script: str) -> argparse.ArgumentParser:
    """The parser of a script's flags, from its ``get_parser()``."""
    return runpy.run_path(str(PROJECT / script))["get_parser"]()


def run_job(job: Job) -> Ended:
    """Run the commands until one fails. Ctrl-C raises KeyboardInterrupt."""
    here, argv = os.getcwd(), sys.argv
    try:
        os.chdir(job.folder)
        with open(job.log, "a", buffering=1) as log, printing_to(log):
            for command in job.commands:
                code = _run(command, log)
                if code in STOPPED:
                    raise KeyboardInterrupt
                if code:
                    return Ended(job.name, code)
    finally:
        os.chdir(here)
        sys.argv = argv
    return Ended(job.name, 0)


def last_line(log: Path) -> str:
    """The last line of a log, where a failed script reports its error."""
    text = Path(log).read_text(errors="replace").replace("\r", "\n")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"


def _run(command: Command, log: IO[str]) -> int:
    script, *flags = command
    sys.argv = [script, *flags]
    log.write(f"\n$ python {shlex.join(sys.argv)}\n")
    log.flush()
    try:
        runpy.run_path(str(PROJECT / script), run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except Exception:  # a bug in the script; the next job can still run
        traceback.print_exc()
        return 1
    return 0
