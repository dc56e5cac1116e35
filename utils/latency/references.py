"""References: the whole networks that a table's sums were fitted to, with their times, in the table's note.

A machine's speed for whole networks may change by some percent within minutes, with what other programs take of its
caches and memory. The probe, a single layer, does not show that. Some of these networks, timed again, do.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Callable

import numpy as np

from model.network import Network, Widths
from utils.latency.note import Note, number_within, plain_dict

AGAIN = 6  # networks that are timed again: more would take time, and few are noisy
LEAST = 3  # networks: with fewer, the probe tells more


@dataclass(frozen=True)
class References:
    networks: tuple[Widths, ...]
    seconds: np.ndarray  # of each when the table was measured

    @property
    def again(self) -> tuple[Widths, ...]:
        return self.networks[:AGAIN]

    def now_over_then(self, predicted: Callable[[Widths], float], now_s: np.ndarray) -> float:
        """How much longer networks take. predicted: seconds by the table; now_s: of ``again``.

        Single times are noisy. So they are compared with the table, those of now and all those of then: what the table
        is off by for all of them cancels out.
        """
        by_table = np.array([predicted(widths) for widths in self.networks])
        return float(np.median(now_s / by_table[:len(now_s)]) / np.median(self.seconds / by_table))


def noted(networks: Sequence[Widths], seconds: np.ndarray) -> dict[str, Any]:
    """For a table's note. seconds: [networks], at least one."""
    groups = list(networks[0])
    return {"references": {"groups": groups, "widths": [[widths[g] for g in groups] for widths in networks],
                           "seconds": [float(s) for s in seconds]}}


def noted_of(all_of: Iterable[References]) -> dict[str, Any]:
    """The same for a merged table: the means of what all have timed; nothing where they timed different ones."""
    first, *others = all_of
    if not first.networks or any(other.networks != first.networks for other in others):
        return {}
    return noted(first.networks, np.mean([one.seconds for one in (first, *others)], axis=0))


def references_in(note: Note, network: Network) -> References:
    """Those in a table's note; none where it lacks them, or was edited into something else."""
    found = plain_dict(note.get("references"))
    groups, widths, seconds = (found.get(key) for key in ("groups", "widths", "seconds"))
    if not (isinstance(groups, list) and isinstance(widths, list) and isinstance(seconds, list)):
        return NONE
    times = [s for s in (number_within(s, 1e-9, 1e3) for s in seconds) if s]
    try:
        networks = tuple(dict(zip(groups, one)) for one in widths)
        for one in networks:
            network.layers(one)
    except (TypeError, ValueError):
        return NONE
    sound = LEAST <= len(networks) == len(times) == len(seconds)
    return References(networks, np.array(times)) if sound else NONE


NONE = References((), np.zeros(0))
