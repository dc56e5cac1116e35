"""What a latency table predicts: a sum of entries, corrected to the time of a whole network.

The keys and shapes that a network needs are ``network.tables``. A table without those of additions (``Join_*``) is
read, too; additions then count as free. Runs on Python 3.9 with NumPy.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np

from model.network import Layer, Network, Table, Widths
from utils.common.errors import UserError
from utils.common.output import remark
from utils.latency.note import Correction, Note, correction_in, plain_dict
from utils.latency.table_files import LatencyTable, read_pair

LEAST = 0.05  # part of an entry that is kept, at least, when the overhead is subtracted
# The slowest boards compute ten times as many multiplications a second, and start a layer in a tenth of this time.
SLOWEST_MACS_PER_S, SLOWEST_START_S = 1e7, 1e-3


@dataclass(frozen=True, eq=False)
class Corrected(Mapping[str, np.ndarray]):
    """A table that predicts whole networks: a network takes sum(entries) + max(sum(memory) - cached_s, 0)."""

    entries: LatencyTable  # seconds
    memory: LatencyTable  # seconds that reading the weights of an entry from memory adds; empty: entries have them
    cached_s: float  # of these, what a cache saves a network, at most

    def __getitem__(self, key: str) -> np.ndarray:
        return self.entries[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def all(self) -> dict[str, np.ndarray]:
        """Everything that predictions depend on, for a fingerprint."""
        of_memory = {f"memory of {key}": array for key, array in self.memory.items()}
        return {**self.entries, **of_memory, **({"cached": np.array(self.cached_s)} if self.memory else {})}


def latency_s(network: Network, widths: Widths, table: LatencyTable) -> float:
    """Predicted seconds per inference: the sum over the live layers of table[key][cin - 1, cout - 1]; for a
    ``Corrected`` with what comes from memory.

    An addition that the table lacks counts as free. Raises UserError if the table lacks another layer.
    """
    total, priced = 0.0, network.priced
    for layer in network.layers(widths):
        key = priced.get(layer.node.name)
        if key is not None and _holds(network, table, key):
            total += table[key][network.tables[key].index(layer.cin, layer.cout)]
    if isinstance(table, Corrected) and table.memory:
        total += max(latency_s(network, widths, table.memory) - table.cached_s, 0.0)
    return float(total)


def prices(network: Network, table: LatencyTable) -> dict[str, Callable[[Any, Any], Any]]:
    """{node: its seconds from cin to cout channels}, the terms of the sum that ``latency_s`` is; cin, cout: numbers, or
    arrays of them.

    A node that is free is left out. Raises UserError if the table lacks another layer.
    """
    entries = {key: partial(_entries, table[key], spec.free, *_places(spec))
               for key, spec in network.tables.items() if _holds(network, table, key)}
    return {name: entries[key] for name, key in network.priced.items() if key in entries}


def memory_prices(network: Network, table: Corrected) -> dict[str, Callable[[Any, Any], Any]]:
    """The same of ``table.memory``; empty where it is."""
    return prices(network, table.memory) if table.memory else {}


def _holds(network: Network, table: LatencyTable, key: str) -> bool:
    """Whether the table has the key. Raises UserError if it lacks one that is not free."""
    if key not in table and not network.tables[key].optional:
        raise UserError(f"the table has no {key}, which the network ({network.title}) needs: expected a table of "
                        "this network, or of a wider one of its kind")
    return key in table


def _places(spec: Table) -> tuple[np.ndarray, np.ndarray]:
    """The row and the column of every number of channels, from 0 up to the table's most."""
    most = max(spec.rows * max(spec.step_in, spec.step_out), spec.columns * spec.step_out)
    rows, columns = np.array([spec.index(channels, channels) for channels in range(most + 1)]).T
    return rows, columns


def _entries(array: np.ndarray, free: bool, rows: np.ndarray, columns: np.ndarray, cin: Any, cout: Any) -> Any:
    """array[Table.index(cin, cout)], for arrays of cin and cout, too."""
    return array[rows.take(cin if free else cout, mode="clip"), columns.take(cout, mode="clip")]


# --- the correction of a sum -----------------------------------------------------------------------------------

def corrected(network: Network, table: LatencyTable, correction: Optional[Correction]) -> Corrected:
    """The table that predicts whole networks: its entries are factor * (entry - overhead), at least LEAST of it, and
    weights have weight_s each.

    The output layer keeps the overhead of the one invocation that every network has.
    """
    if correction is None:
        return Corrected(dict(table), {}, 0.0)
    output, found, memory = output_key(network), {}, {}
    for key, array in table.items():
        less = array if key == output else np.maximum(array - correction.overhead_s, LEAST * array)
        found[key] = correction.factor * less
        if correction.weight_s and key in network.tables:
            memory[key] = correction.weight_s * filter_weights(network.tables[key])
    if correction.cached_weights:
        return Corrected(found, memory, correction.weight_s * correction.cached_weights)
    return Corrected({key: array + memory[key] if key in memory else array for key, array in found.items()}, {}, 0.0)


def filter_weights(table: Table) -> np.ndarray:
    """Filter weights of the operator at every width, [rows, columns]."""
    if not table.free:
        return table.weights_per_channel * np.array([[table.entry(row)[1]] for row in range(table.rows)], np.float64)
    cin = np.array([table.entry(row * table.columns)[0] for row in range(table.rows)], np.float64)
    cout = np.array([table.entry(column)[1] for column in range(table.columns)], np.float64)
    return table.weights_per_channel * np.outer(cin, cout)


def output_key(network: Network) -> Optional[str]:
    """The table of the last layer that has one, which every network has."""
    return next((network.priced[n.name] for n in reversed(network.nodes) if n.name in network.priced), None)


# --- of a network ----------------------------------------------------------------------------------------------

def read_table(path: Path, network: Network) -> Corrected:
    """Like ``read_measured``, but with the note's correction, so that it predicts the times of whole networks."""
    arrays, note = read_measured(path, network)
    return corrected(network, arrays, correction_in(note))


def read_measured(path: Path, network: Network) -> tuple[dict[str, np.ndarray], Note]:
    """Read the table of ``network`` as it was measured, and its note.

    Raises UserError naming a key that is missing, unknown or of another shape, or whose operator differs in the
    note (by its image size, for example).
    """
    arrays, note = read_pair(path)
    needed, measured = network.tables, plain_dict(note.get("operators"))
    for key in needed:
        if measured.get(key, needed[key].operator) != needed[key].operator:
            raise UserError(f"{path}: not a table of {network.title}: {key}: expected {needed[key].operator}, "
                            f"its note says {measured[key]}")
    for key in sorted(set(arrays) | {k for k, t in needed.items() if not t.optional}):
        expected = needed[key].shape if key in needed else None
        found = arrays[key].shape if key in arrays else None
        if expected != found:
            raise UserError(f"{path}: not a table of {network.title}: {key}: expected "
                            f"{expected or 'no such key'}, found {found or 'no such key'}; "
                            f"check {_flags_of(network)} and --perf_table")
    look_at_units(path, arrays, latency_s(network, network.full_widths, arrays),
                  network.multiply_adds(network.full_widths), note)
    return arrays, note


def by_layer(network: Network, widths: Widths, table: LatencyTable) -> list[tuple[Layer, float]]:
    """Every live layer in order, and its seconds by a table of the network; 0 without a key there. ``latency_s`` is
    their sum: what a cache saves is saved in the same part of every layer's memory."""
    keys = [(layer, network.priced.get(layer.node.name, "")) for layer in network.layers(widths)]
    found = [(layer, float(table[key][network.tables[key].index(layer.cin, layer.cout)]) if key in table else 0.0)
             for layer, key in keys]
    if not (isinstance(table, Corrected) and table.memory):
        return found
    memory = [seconds for _, seconds in by_layer(network, widths, table.memory)]
    part = max(1 - table.cached_s / sum(memory), 0.0) if any(memory) else 0.0
    return [(layer, seconds + part * more) for (layer, seconds), more in zip(found, memory)]


def look_at_units(path: Path, arrays: LatencyTable, total_s: float, macs: float, note: Note) -> None:
    """Report a table that by the look of it holds milliseconds. total_s, macs: of the unpruned network, one image."""
    images = note.get("num_images")
    images = images if isinstance(images, int) and images > 0 else 1
    least_s = min(float(array.min()) for array in arrays.values())
    if total_s / images > macs / SLOWEST_MACS_PER_S or least_s / images > SLOWEST_START_S:
        remark(f"warning: {path}: the unpruned network takes {total_s:.4g} s by it, and its fastest layer "
               f"{least_s:.2g} s. These look like milliseconds; a table holds seconds")


def _flags_of(network: Network) -> str:
    """The flags that may name another network than the table's."""
    return "--net" + "".join(f", --{flag}" for flag in ("depth", "width") if flag in network.arguments)


def operators(network: Network) -> dict[str, str]:
    """What each table of the network measures, in words, for its note."""
    return {key: table.operator for key, table in network.tables.items()}


def missing_joins(network: Network, table: LatencyTable) -> list[str]:
    """The tables of additions that this table lacks."""
    return [key for key, t in network.tables.items() if t.optional and key not in table]
