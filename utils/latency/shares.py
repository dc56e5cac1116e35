"""Where the latency of a network goes, by a table: to which operators, to which layers, to maps of which size."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Optional

from model.network import Network, Widths
from model.operators import Sides
from utils.common.errors import UserError
from utils.common.figure import time_unit
from utils.latency.note import Note, correction_in, network_in
from utils.latency.table_files import LatencyTable
from utils.latency.tables import by_layer, corrected
from utils.latency.words import kind_in_words

NAMED = 5  # keys in a message


# --- operators -------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Costs:
    """What the operators of a table cost."""

    network: Optional[Network]  # the unpruned one whose latency they share; None: not known, each has its largest entry
    seconds: dict[str, float]

    def words(self, key: str) -> str:
        """12.3% of the latency."""
        if self.network is None:
            unit, scale = time_unit(self.seconds[key])
            return f"up to {self.seconds[key] * scale:.4g} {unit}"
        share = self.share([key])
        return f"{share:.1%} of the latency" if share >= 0.001 else "under 0.1% of the latency"

    def share(self, keys: Iterable[str]) -> float:
        """The part of all that these cost."""
        return sum(self.seconds[key] for key in keys) / sum(self.seconds.values())


def costs(table: LatencyTable, note: Note) -> Costs:
    """What the operators of a table cost the network that its note tells, with the note's correction."""
    network = network_in(note)
    if network is None or not _is_of(table, network):
        return Costs(None, {key: float(array.max()) for key, array in table.items()})
    seconds = dict.fromkeys(table, 0.0)
    for layer, time_s in by_layer(network, network.full_widths, corrected(network, table, correction_in(note))):
        if time_s:
            seconds[network.priced[layer.node.name]] += time_s
    return Costs(network, seconds)


def _is_of(table: LatencyTable, network: Network) -> bool:
    return (set(table) <= set(network.tables)
            and all(key in table or t.optional for key, t in network.tables.items())
            and all(array.shape == network.tables[key].shape for key, array in table.items()))


def costliest(seconds: Mapping[str, float], most: int) -> list[str]:
    """The keys that cost most, in falling order."""
    return sorted(seconds, key=lambda key: -seconds[key])[:most]


def matching(keys: Sequence[str], patterns: Iterable[str]) -> list[str]:
    """The keys that are one of the patterns or match it, where * stands for anything. Raises UserError."""
    for pattern in patterns:
        if not any(key == pattern or fnmatchcase(key, pattern) for key in keys):
            more = f" and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
            raise UserError(f"--operator={pattern}: matches no operator of the table; it has "
                            f"{', '.join(keys[:NAMED])}{more}; * stands for anything")
    return [key for key in keys if any(key == pattern or fnmatchcase(key, pattern) for pattern in patterns)]


# --- layers ----------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class LayerTime:
    """What a table predicts for a layer, before and after pruning."""

    name: str  # as a state dict has it
    operator: str  # in words
    sides: Sides  # of the map that it writes
    before_s: float
    after_s: Optional[float]  # None: removed


def layer_times(network: Network, widths: Widths, table: LatencyTable) -> list[LayerTime]:
    """The layers of the unpruned network that take time, in order. Their sums are ``latency_s``, before and after."""
    after = {layer.node.name: seconds for layer, seconds in by_layer(network, widths, table)}
    return [LayerTime(layer.node.path, kind_in_words(layer.node), layer.out_sides, seconds, after.get(layer.node.name))
            for layer, seconds in by_layer(network, network.full_widths, table) if seconds]


def total_s(times: Iterable[LayerTime]) -> tuple[float, float]:
    """Seconds before and after."""
    times = list(times)
    return sum(t.before_s for t in times), sum(t.after_s or 0.0 for t in times)


def by_map(times: Iterable[LayerTime]) -> dict[Sides, list[LayerTime]]:
    """The layers by the size of the map that they write, the largest first."""
    found = defaultdict(list)
    for time in times:
        found[time.sides].append(time)
    return {sides: found[sides] for sides in sorted(found, reverse=True)}


def split(times: Sequence[LayerTime], most: int) -> tuple[list[LayerTime], list[LayerTime]]:
    """The layers that cost most before pruning, and the others; both in the network's order."""
    top = set(sorted(range(len(times)), key=lambda number: -times[number].before_s)[:most])
    return [t for n, t in enumerate(times) if n in top], [t for n, t in enumerate(times) if n not in top]
