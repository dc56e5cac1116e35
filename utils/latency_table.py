"""Latency tables: perf_tables/NAME.pickle, a dict of key -> float64 array of seconds, [cin - 1, cout - 1].

The keys and shapes that a network needs are ``network.tables``. ``Join_*`` tables are ours: one without them still
loads, additions then counting as free. A sidecar NAME.json says on which device, with what and how it was measured,
and how a sum of entries becomes the time of a whole network.
Pickles are read with an unpickler that admits NumPy arrays and plain containers only. Runs on Python 3.9 with NumPy;
smoothing alone needs SciPy.
"""

import hashlib
import io
import json
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

import numpy as np

from model.network import Network, Widths
from utils.errors import UserError
from utils.files import locate, write_together

FOLDER = "perf_tables"
LEAST = 0.05  # of an entry is left, however small, when the overhead is taken off
PROTOCOL = 4  # of the pickles we write: read by every Python from 3.4 on

LatencyTable = Mapping[str, np.ndarray]


def table_path(name: str) -> Path:
    """perf_tables/NAME.pickle; a path stays a path."""
    return locate(name, FOLDER, ".pickle")


def latency_s(network: Network, widths: Widths, table: LatencyTable) -> float:
    """Predicted seconds per inference: the sum over the live layers of table[key][cin - 1, cout - 1]."""
    total = 0.0
    for layer in network.layers(widths):
        key = layer.node.table
        if key in table:
            total += table[key][network.tables[key].index(layer.cin, layer.cout)]
    return float(total)


def sha256(table: LatencyTable) -> str:
    """Of the entries, in hexadecimal: of a table as it is summed, its note's correction is in them."""
    found = hashlib.sha256()
    for key, array in sorted(table.items()):
        found.update(f"{key} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


# --- the correction of a sum -----------------------------------------------------------------------------------

@dataclass(frozen=True)
class Correction:
    """A network of n layers takes factor * (sum of its entries - (n - 1) * overhead_s): utils/calibration.py."""

    factor: float
    overhead_s: float  # of an invocation of a single layer


def corrected(network: Network, table: LatencyTable, correction: Optional[Correction]) -> Dict[str, np.ndarray]:
    """The table whose sums are times of whole networks: factor * (entry - overhead), or factor * entry in the output
    layer, which pays for the one invocation that every network has. Small entries keep a part of their size."""
    if correction is None:
        return dict(table)
    output = output_key(network)
    return {key: correction.factor * (array if key == output else
                                      np.maximum(array - correction.overhead_s, LEAST * array))
            for key, array in table.items()}


def output_key(network: Network) -> Optional[str]:
    """The table of the output layer, which every network has once."""
    return network.nodes[-1].table


def correction_in(provenance: Mapping[str, Any]) -> Optional[Correction]:
    """The correction that a sidecar tells of; None where there is none, or none that makes sense."""
    found = plain_dict(provenance.get("correction"))
    factor, overhead_s = _number(found.get("factor"), 0.1, 10), _number(found.get("overhead_s"), 0, 1)
    return None if factor is None or overhead_s is None else Correction(factor, overhead_s)


def probe_in(provenance: Mapping[str, Any]) -> Optional[float]:
    """The usual seconds of the probe while a table was measured; None where the sidecar does not say."""
    return _number(plain_dict(provenance.get("probe")).get("usual_s"), 1e-9, 1e3)


def _number(value: Any, low: float, high: float) -> Optional[float]:
    """``value`` where it is a number in low..high: sidecars are edited by hand."""
    sound = isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
    return float(value) if sound else None


# --- files -----------------------------------------------------------------------------------------------------

def write_table(path: Path, table: LatencyTable, provenance: Mapping[str, Any]) -> None:
    """Write the table and its sidecar, each whole; where that fails, the ones before stay."""
    path = Path(path)
    write_together({path: pickle.dumps({k: np.asarray(v, np.float64) for k, v in table.items()}, PROTOCOL),
                    path.with_suffix(".json"): json.dumps(dict(provenance), indent=1) + "\n"})


def read_provenance(path: Path) -> Dict[str, Any]:
    """The sidecar of a table, {} where there is none or it cannot be read."""
    try:
        found = json.loads(Path(path).with_suffix(".json").read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return plain_dict(found)


def plain_dict(value: Any) -> Dict[str, Any]:
    """``value`` where it is a dict, else {}: sidecars are edited by hand."""
    return value if isinstance(value, dict) else {}


def read_arrays(path: Path) -> Dict[str, np.ndarray]:
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


def read_table(path: Path, network: Network) -> Dict[str, np.ndarray]:
    """Read the table of ``network``, corrected by what its sidecar says, so that a sum is a network's time."""
    return corrected(network, read_measured(path, network), correction_in(read_provenance(path)))


def read_measured(path: Path, network: Network) -> Dict[str, np.ndarray]:
    """Read the table of ``network`` as it was measured.

    Raises UserError naming the key that is missing, unknown or of another shape, or that its sidecar says was
    measured on another operator (another image size, say).
    """
    arrays = read_arrays(path)
    needed = network.tables
    measured = plain_dict(read_provenance(path).get("operators"))
    for key in needed:
        if measured.get(key, needed[key].operator) != needed[key].operator:
            raise UserError(f"{path}: not a table of {name_of(network)}: {key}: expected {needed[key].operator}, "
                            f"its sidecar says {measured[key]}")
    for key in sorted(set(arrays) | {k for k, t in needed.items() if t.kind != "add"}):
        expected = needed[key].shape if key in needed else None
        found = arrays[key].shape if key in arrays else None
        if expected != found:
            raise UserError(f"{path}: not a table of {name_of(network)}: {key}: expected "
                            f"{expected or 'no such key'}, found {found or 'no such key'}; "
                            "check --net, --depth, --width and --perf_table")
    return arrays


def operators(network: Network) -> Dict[str, str]:
    """What each table of the network measures, in words, for the sidecar."""
    return {key: table.operator for key, table in network.tables.items()}


def missing_joins(network: Network, table: LatencyTable) -> List[str]:
    """The tables of additions that this table lacks."""
    return [key for key, t in network.tables.items() if t.kind == "add" and key not in table]


def name_of(network: Network) -> str:
    """The network's arguments in a line, for messages."""
    return ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in network.arguments.items())


def _describe(value: Any) -> str:
    return f"array of {value.dtype}{value.shape}" if isinstance(value, np.ndarray) else type(value).__name__


# --- pickles that cannot execute -------------------------------------------------------------------------------

def read_pickle(path: Path) -> Any:
    """Read a pickle of NumPy arrays and plain containers; anything else in it is refused and does not run.

    Raises UserError naming the file.
    """
    try:
        raw = Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder, expected a pickle file") from None
    try:
        return _arrived(_ArrayUnpickler(io.BytesIO(raw), encoding="latin1").load())
    except _Forbidden as error:
        raise UserError(f"{path}: holds {error}, which is neither an array nor a plain container; "
                        "refused, nothing in it was run") from None
    except MemoryError:
        raise UserError(f"{path}: not a whole pickle (it asks for more memory than there is)") from None
    except Exception as error:  # a broken pickle raises nearly anything
        raise UserError(f"{path}: not a whole pickle ({type(error).__name__}: {error}); copy or make it again") from None


class _Forbidden(Exception):
    pass


class _ArrayUnpickler(pickle.Unpickler):
    """Meets NumPy's names with stand-ins of ours: NumPy itself trusts the state it is given, addresses included."""

    def find_class(self, module: str, name: str):
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name in ("_reconstruct", "scalar"):
            return _PickledArray if name == "_reconstruct" else _scalar
        if module in ("numpy.core.numeric", "numpy._core.numeric") and name == "_frombuffer":
            return _frombuffer
        if (module, name) == ("numpy", "ndarray"):
            return None  # only ever an argument of _reconstruct
        if (module, name) == ("numpy", "dtype"):
            return _PickledType
        if (module, name) == ("_codecs", "encode"):  # bytes, in the pickles of protocol 2
            return _encode
        raise _Forbidden(f"{module}.{name}")


class _PickledType:
    """A number type: the pickled name, and the byte order that its state adds."""

    def __init__(self, name: str, align: Any = False, copy: Any = True):
        if not re.fullmatch(r"[<>=|]?([fiu][1248]|b1)", name):
            raise _Forbidden(f"an array of type {name!r}")
        self.dtype = np.dtype(name)

    def __setstate__(self, state) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _PickledArray:
    """An array on its way: its values arrive as the state."""

    def __init__(self, kind: Any = None, shape: Any = None, code: Any = None):
        self.array = np.empty(0)

    def __setstate__(self, state) -> None:
        _, shape, kind, fortran, raw = state
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        self.array = np.frombuffer(raw, kind.dtype).reshape(shape, order="F" if fortran else "C").copy()


def _frombuffer(buffer, kind: _PickledType, shape, order, axis_order=None) -> _PickledArray:
    found = _PickledArray()
    found.array = np.frombuffer(buffer, kind.dtype).reshape(shape, order="F" if order == "F" else "C").copy()
    if axis_order is not None:
        found.array = found.array.transpose(axis_order)
    return found


def _scalar(kind: _PickledType, raw) -> Any:
    return np.frombuffer(raw.encode("latin1") if isinstance(raw, str) else raw, kind.dtype)[0]


def _encode(text: str, encoding: str = "latin1") -> bytes:
    return text.encode("latin1")


def _arrived(value: Any) -> Any:
    """The plain containers that were read, with the arrays that arrived in them."""
    if isinstance(value, _PickledArray):
        return value.array
    if isinstance(value, dict):
        return {k: _arrived(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_arrived(v) for v in value)
    return value


# --- several measurements of one network -----------------------------------------------------------------------

def merge(tables: Sequence[LatencyTable], names: Sequence[str], *, how: str = "mean", sigma: float = 0.0,
          mode: str = "nearest") -> Dict[str, np.ndarray]:
    """One table out of several measurements of one network: entry by entry ``mean`` or ``median``.

    sigma: width of an optional Gaussian smoothing, in channels (``mode`` is SciPy's rule at the edges); it erases
    the steps that kernels really have, so 0 is the default. names: for messages, which UserError carries when the
    tables don't have the same keys and shapes.
    """
    shapes = [{k: v.shape for k, v in t.items()} for t in tables]
    for name, shape in zip(names, shapes):
        if shape != shapes[0]:
            key = sorted(k for k in set(shape) | set(shapes[0]) if shape.get(k) != shapes[0].get(k))[0]
            raise UserError(f"{name}: does not match {names[0]}: {key} is {shape.get(key, 'missing')} there and "
                            f"{shapes[0].get(key, 'missing')} in the first; merge measurements of one network only")
    combine = {"mean": np.mean, "median": np.median}[how]
    merged = {k: combine([t[k] for t in tables], axis=0) for k in tables[0]}
    if sigma > 0:
        from scipy.ndimage import gaussian_filter
        merged = {k: gaussian_filter(v, [sigma if n > 1 else 0 for n in v.shape], mode=mode)
                  for k, v in merged.items()}
    return merged


def entries(network: Network):
    """Every (table, cin, cout) that a table of this network measures, in a fixed order."""
    for table in network.tables.values():
        for cin, cout in table.entries():
            yield table, cin, cout
