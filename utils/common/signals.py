"""Signals that end a script, from its first moment on: Ctrl-C, SIGTERM (clusters send it), SIGHUP (a closed terminal).

A script's first lines call ``answer_at_once``, and ``cli.run`` takes over when everything is imported. Standard library
alone, and little of it: until this is imported, a signal ends Python without a word.
"""

import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
UNANSWERED = (signal.SIG_DFL, signal.default_int_handler)  # and not ignored, as nohup has it


class Stopped(KeyboardInterrupt):
    """A signal that ends a script as Ctrl-C does; its argument is the signal's number."""


def answer_at_once() -> None:
    """While a script still imports its modules, end it with one line and exit code 130, 143 or 129."""
    for number in NUMBERS:
        if signal.getsignal(number) in UNANSWERED:
            signal.signal(number, _end)


def _end(number: int, _: Any) -> None:
    os.write(2, f"stopped before anything began. To run it again: python {shlex.join(sys.argv)}\n".encode())
    os._exit(128 + number)


@contextmanager
def raised() -> Iterator[None]:
    """Raise Stopped at SIGTERM and SIGHUP, and KeyboardInterrupt at Ctrl-C, in the block. Only for the main thread.

    Behind the block Python's own answers hold again, also for whoever called the script from a notebook.
    """
    def stop(number: int, _: Any) -> None:
        raise Stopped(number)

    answered = [number for number in NUMBERS if signal.getsignal(number) in (*UNANSWERED, _end)]
    for number in answered:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else stop)
    try:
        yield
    finally:
        for number in answered:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
