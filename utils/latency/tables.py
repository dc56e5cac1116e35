"""Latency tables: perf_tables/NAME.pickle, a dict of key -> float64 array of seconds, [cin - 1, cout - 1].

The keys and shapes that a network needs are ``network.tables``. A file without the tables of additions (``Join_*``)
still loads; additions then count as free. A note NAME.json (note.py) says on which machine, with what and how it was
measured, and how a sum of entries becomes the time of a whole network. Runs on Python 3.9 with NumPy.
"""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

import numpy as np

from model.network import Network, Widths
from utils.common.errors import UserError
from utils.common.files import locate, write_together
from utils.common.pickles import PROTOCOL, read_pickle
from utils.latency.note import Correction, correction_in, plain_dict, read_note

FOLDER = "perf_tables"
LEAST = 0.05  # part of an entry that is kept, at least, when the overhead is subtracted

LatencyTable = Mapping[str, np.ndarray]


def table_path(name: str) -> Path:
    """perf_tables/NAME.pickle; a path stays a path."""
    return locate(name, FOLDER, ".pickle")


def latency_s(network: Network, widths: Widths, table: LatencyTable) -> float:
    """Predicted seconds per inference: the sum over the live layers of table[key][cin - 1, cout - 1].

    An addition that the table lacks counts as free. Raises UserError if the table lacks another layer.
    """
    total, priced = 0.0, network.priced
    for layer in network.layers(widths):
        key = priced.get(layer.node.name)
        if key is not None and key in table:
            total += table[key][network.tables[key].index(layer.cin, layer.cout)]
        elif key is not None and not network.tables[key].optional:
            raise UserError(f"the table has no {key}, which the network ({network.title}) needs: expected a table of "
                            "this network, or of a wider one of its kind")
    return float(total)


# --- the correction of a sum -----------------------------------------------------------------------------------

def corrected(network: Network, table: LatencyTable, correction: Optional[Correction]) -> dict[str, np.ndarray]:
    """The table whose sums are times of whole networks: factor * (entry - overhead), at least LEAST of the entry.

    The output layer is factor * entry: it keeps the overhead of the one invocation that every network has.
    """
    if correction is None:
        return dict(table)
    output = output_key(network)
    return {key: correction.factor * (array if key == output else
                                      np.maximum(array - correction.overhead_s, LEAST * array))
            for key, array in table.items()}


def output_key(network: Network) -> Optional[str]:
    """The table of the last layer that has one, which every network has."""
    return next((network.priced[n.name] for n in reversed(network.nodes) if n.name in network.priced), None)


# --- files -----------------------------------------------------------------------------------------------------

def write_table(path: Path, table: LatencyTable, note: Mapping[str, Any]) -> None:
    """Write the table and its note, each all or nothing; if writing fails, the old ones stay."""
    path = Path(path)
    write_together({path: pickle.dumps({k: np.asarray(v, np.float64) for k, v in table.items()}, PROTOCOL),
                    path.with_suffix(".json"): json.dumps(dict(note), indent=1) + "\n"})


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a table file, in float64, checked to be positive and finite. Raises UserError naming the file."""
    content = read_pickle(path)
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: expected a dict of arrays, found {type(content).__name__}")
    arrays = {}
    for key, array in content.items():
        numeric = isinstance(array, np.ndarray) and array.ndim == 2 and array.dtype.kind in "fiu"
        if not isinstance(key, str) or not numeric or not array.size:
            raise UserError(f"{path}: entry {key!r}: expected a two-dimensional array of seconds, "
                            f"found {_describe(array)}")
        arrays[key] = array.astype(np.float64)
        wrong = np.argwhere(~(np.isfinite(arrays[key]) & (arrays[key] > 0)))
        if len(wrong):
            i, j = wrong[0]
            raise UserError(f"{path}: {key}: {len(wrong)} entries are not positive seconds, first "
                            f"[{i}, {j}] = {arrays[key][i, j]}; measure or merge the table again")
    return arrays


def read_table(path: Path, network: Network) -> dict[str, np.ndarray]:
    """Like ``read_measured``, but with the note's correction, so that a sum is the time of a whole network."""
    return corrected(network, read_measured(path, network), correction_in(read_note(path)))


def read_measured(path: Path, network: Network) -> dict[str, np.ndarray]:
    """Read the table of ``network`` as it was measured.

    Raises UserError naming a key that is missing, unknown or of another shape, or whose operator differs in the
    note (by its image size, for example).
    """
    arrays = read_arrays(path)
    needed = network.tables
    measured = plain_dict(read_note(path).get("operators"))
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
                            "check --net, --depth, --width and --perf_table")
    return arrays


def operators(network: Network) -> dict[str, str]:
    """What each table of the network measures, in words, for its note."""
    return {key: table.operator for key, table in network.tables.items()}


def missing_joins(network: Network, table: LatencyTable) -> list[str]:
    """The tables of additions that this table lacks."""
    return [key for key, t in network.tables.items() if t.optional and key not in table]


def _describe(value: Any) -> str:
    return f"array of {value.dtype}{value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
