"""Pickles read without executing anything in them: NumPy arrays, numbers and plain containers, nothing else.

Those written here end in a line with their checksum, behind the end of the pickle, where other programs do not read.
"""

import hashlib
import io
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np

from utils.common.checksum import note_without
from utils.common.errors import UserError

PROTOCOL = 4  # of the pickles we write: read by every Python from 3.4 on
_LAST_LINE = re.compile(rb"\nsha256 ([0-9a-f]{64})\n\Z")


def to_pickle(value: Any) -> bytes:
    """The pickle of plain containers and arrays, with its checksum behind it."""
    raw = pickle.dumps(value, PROTOCOL)
    return raw + f"\nsha256 {hashlib.sha256(raw).hexdigest()}\n".encode()


def read_pickle(path: Path) -> Any:
    """Read a pickle of NumPy arrays and plain containers; anything else in it is refused and does not run.

    Raises UserError naming the file, also where it does not match its checksum.
    """
    try:
        raw = Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder, expected a pickle file") from None
    found = _LAST_LINE.search(raw, max(len(raw) - 80, 0))
    if found and found[1].decode() != hashlib.sha256(raw[:found.start()]).hexdigest():
        raise UserError(f"{path}: damaged, it does not match the checksum at its end; copy or make it again")
    try:
        value = _arrived(_ArrayUnpickler(io.BytesIO(raw), encoding="latin1").load())
    except _Forbidden as error:
        raise UserError(f"{path}: holds {error}, which is neither an array nor a plain container; "
                        "refused, nothing in it was run") from None
    except MemoryError:
        raise UserError(f"{path}: not a whole pickle (it asks for more memory than there is)") from None
    except Exception as error:  # a broken pickle raises nearly anything
        raise UserError(f"{path}: not a whole pickle ({type(error).__name__}: {error}); copy or make it "
                        "again") from None
    if not found:
        note_without(path)
    return value


class _Forbidden(Exception):
    pass


class _ArrayUnpickler(pickle.Unpickler):
    """Replaces NumPy's constructors by safe ones: NumPy's own trust the pickled state, even memory addresses in it."""

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
        if (module, name) == ("collections", "OrderedDict"):
            return dict  # which keeps the order, too, and no attributes that a pickle could set
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
    """An array being unpickled: ``__setstate__`` receives its values."""

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
    """The unpickled containers, with every ``_PickledArray`` replaced by its array."""
    if isinstance(value, _PickledArray):
        return value.array
    if isinstance(value, dict):
        return {k: _arrived(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_arrived(v) for v in value)
    return value
