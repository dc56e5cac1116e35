"""Without what C++ libraries print; what goes wrong is raised as well."""

import contextlib
import os
import sys
from typing import Iterator


@contextlib.contextmanager
def quiet(*descriptors: int) -> Iterator[None]:
    """While it lasts, nothing written to these file descriptors (1: stdout, 2: stderr) is seen."""
    _flush(descriptors)
    kept, nowhere = {d: os.dup(d) for d in descriptors}, os.open(os.devnull, os.O_WRONLY)
    try:
        for descriptor in descriptors:
            os.dup2(nowhere, descriptor)
        yield
        _flush(descriptors)
    finally:
        for descriptor, copy in kept.items():
            os.dup2(copy, descriptor)
            os.close(copy)
        os.close(nowhere)


def _flush(descriptors) -> None:
    """What Python holds back belongs to the time before, or to the silence."""
    for descriptor in descriptors:
        {1: sys.stdout, 2: sys.stderr}[descriptor].flush()
