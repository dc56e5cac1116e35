"""How far a long loop is and what remains: tqdm's bar on a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Optional

SECONDS_BETWEEN_LINES = 20.0
TOLD_FROM = 0.01  # part of the items after which what remains is told: a first one that waits says nothing of the rest


def progress(items: Iterable, title: str, total: Optional[int] = None, done: int = 0) -> Iterator:
    """Yield ``items``, showing how many of ``total`` are finished; a resumed job has ``done`` from before."""
    total = done + (len(items) if isinstance(items, Sized) else 0) if total is None else total
    if sys.stderr.isatty():
        try:
            from tqdm import tqdm
        except ImportError:  # a Pi needs NumPy and a runtime, nothing more
            pass
        else:
            return iter(tqdm(items, title, total, initial=done, leave=False))
    return _lines(items, title, total, done)


def _lines(items: Iterable, title: str, total: int, done: int) -> Iterator:
    began = spoken = time.monotonic()
    for count, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - spoken > SECONDS_BETWEEN_LINES:
            left = (now - began) / count * (total - done - count)
            known = count >= TOLD_FROM * (total - done)
            after = f", {left / 60:.1f} min left" if known else ""
            print(f"{title}: {done + count:,} of {total:,}{after}", file=sys.stderr, flush=True)
            spoken = now
