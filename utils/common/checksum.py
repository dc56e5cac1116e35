"""Checksums of contents. What is written carries one under the key ``sha256``, and what is read is held to it.

The checksum is of the values, so a file may be packed or formatted anew. Files of older versions and of other programs
have none: they are read, and a line says so. Python 3.9 with NumPy.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Optional

import numpy as np

from utils.common.errors import UserError
from utils.common.output import remark

KEY = "sha256"


def with_checksum(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content and, under KEY, its checksum."""
    bare = {key: value for key, value in content.items() if key != KEY}
    return {**bare, KEY: sha256_of_content(bare)}


def signed_json(content: Mapping[str, Any]) -> str:
    """The content as JSON with its checksum, for a file."""
    return json.dumps(with_checksum(json.loads(json.dumps(content))), indent=1) + "\n"


def checked(path: Path, content: Mapping[str, Any], advice: str) -> dict[str, Any]:
    """The content of the file at ``path`` without its checksum. advice: what to do where it is damaged.

    Raises UserError where the content does not match its checksum.
    """
    bare = {key: value for key, value in content.items() if key != KEY}
    if content.get(KEY) is not None and content[KEY] != sha256_of_content(bare):
        raise UserError(f"{path}: damaged or edited, it does not match the checksum in it; {advice}")
    return bare


def keeps_edits(remedy: str) -> str:
    """The advice for a file that people edit by hand. remedy: what to do where it is damaged."""
    return f'{remedy}, or delete its "{KEY}" to use it as it is'


def note_without(path: Path, content: Optional[Mapping[str, Any]] = None) -> None:
    """Say that a file carries no checksum, unless its content has one; when it is read and nothing else is wrong."""
    if content is None or KEY not in content:
        remark(f"note: {path}: carries no checksum (an older version or another program made it); damage to it would "
               "not be noticed")


def sha256_of_content(content: Any) -> str:
    """Of nested containers of plain values and arrays, in hexadecimal. Tensors count as arrays, on whatever device
    they are, and a tuple as another value than a list."""
    found = hashlib.sha256()
    for piece in _pieces(content):
        found.update(piece)
    return found.hexdigest()


def _pieces(content: Any) -> Iterator[Any]:
    if isinstance(content, Mapping):
        yield f"{{{len(content)} ".encode()
        for key, value in content.items():
            yield from _pieces(key)
            yield from _pieces(value)
    elif isinstance(content, (list, tuple)):
        yield f"{type(content).__name__} {len(content)} ".encode()
        for value in content:
            yield from _pieces(value)
    elif hasattr(content, "dtype") and hasattr(content, "shape"):
        array = np.ascontiguousarray(content.cpu() if hasattr(content, "cpu") else content)
        yield f"{array.dtype} {tuple(content.shape)} ".encode()
        yield array.reshape(-1).view(np.uint8)
    else:
        yield f"{type(content).__name__} {content!r} ".encode()
