"""What this process prints: a remark once; and everything, C++ libraries included, sent nowhere or into a file."""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from typing import IO


@cache
def remark(line: str) -> None:
    """Print the line to stderr, once in a process, however often its reason is met."""
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def quiet(*descriptors: int) -> Iterator[None]:
    """Discard what is written to these file descriptors (1: stdout, 2: stderr). Exceptions pass."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        with _sent_to(nowhere, descriptors):
            yield
    finally:
        os.close(nowhere)


@contextlib.contextmanager
def printing_to(file: IO[str]) -> Iterator[None]:
    """Send everything that this process prints to the file. This includes Python's own streams where they differ from
    the descriptors, as in a notebook. A line-buffered file keeps the order."""
    with _sent_to(file.fileno(), (1, 2)), contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        yield


@contextlib.contextmanager
def _sent_to(target: int, descriptors: Sequence[int]) -> Iterator[None]:
    """Send what goes to these descriptors to ``target``. A closed one (``>&-`` in a shell) stays closed."""
    descriptors = [d for d in descriptors if d != target and _is_open(d)]
    _flush(descriptors)
    kept = {d: os.dup(d) for d in descriptors}
    try:
        for descriptor in descriptors:
            os.dup2(target, descriptor)
        yield
    finally:
        _flush(descriptors)
        for descriptor, copy in kept.items():
            os.dup2(copy, descriptor)
            os.close(copy)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _flush(descriptors: Sequence[int]) -> None:
    """Flush Python's buffers, so that their text goes where it went when it was printed."""
    streams = {1: sys.stdout, 2: sys.stderr}
    for stream in (streams[d] for d in descriptors):
        if stream is not None and not stream.closed:
            stream.flush()
