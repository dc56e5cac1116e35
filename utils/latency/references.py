"""References: whole networks that were timed while a table was measured, and whose times the table's note has.

A machine's speed for whole networks may change by some percent within minutes, with what other programs take of its
caches and memory. The probe, a single layer, does not show that. Networks that are timed again do.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from model.network import Network, Widths
from utils.latency.note import Note, plain_dict

MOST = 4  # networks: more would take time, and one alone is noisy


@dataclass(frozen=True)
class References:
    networks: tuple[Widths, ...]
    seconds: np.ndarray  # of each when the table was measured: the lowest of ``copies`` items
    copies: int

    def now_over_then(self, now_s: np.ndarray) -> float:
        """How much longer they take; now_s: of every item, [networks, copies]."""
        return float(np.median(now_s.min(1) / self.seconds))


def noted(networks: Sequence[Widths], seconds: np.ndarray, copies: int) -> dict[str, Any]:
    """The first of these networks, for a table's note. seconds: [networks]."""
    return {"references": {"copies": copies, "networks": [
        {"widths": dict(widths), "seconds": float(s)} for widths, s in zip(networks[:MOST], seconds)]}}


def noted_of(all_of: Iterable[References]) -> dict[str, Any]:
    """The same for a merged table: the means of what all have timed; nothing where they timed different ones."""
    first, *others = all_of
    if not first.networks or any((o.networks, o.copies) != (first.networks, first.copies) for o in others):
        return {}
    return noted(first.networks, np.mean([o.seconds for o in (first, *others)], axis=0), first.copies)


def references_in(note: Note, network: Network) -> References:
    """Those in a table's note; none where it lacks them, or was edited into something else."""
    found = plain_dict(note.get("references"))
    copies, listed = found.get("copies"), found.get("networks")
    if type(copies) is not int or not 0 < copies <= 100 or not isinstance(listed, list):
        return References((), np.zeros(0), 1)
    pairs = list(_sound(network, listed[:MOST]))
    return References(tuple(widths for widths, _ in pairs), np.array([s for _, s in pairs]), copies)


def _sound(network: Network, listed: Sequence[Any]) -> Iterator[tuple[Widths, float]]:
    for one in map(plain_dict, listed):
        widths, seconds = plain_dict(one.get("widths")), one.get("seconds")
        try:
            network.check_widths(widths)
        except (ValueError, TypeError):
            continue
        if isinstance(seconds, float) and 0 < seconds < 1e6 and network.lives(widths):
            yield widths, seconds
