"""A .tflite file that says what it is: labels.txt and network.json in a zip archive behind the model.

TensorFlow Lite's metadata keeps associated files in the same place. Runtimes stop at the end of the model, while
``unzip -p model.tflite labels.txt`` and Python's zipfile find the archive behind it.

    labels.txt     a class name per line, in the order of the logits
    network.json   format, made_by, network (its arguments), widths, quantize, and what else export.py knows;
                   model_bytes and model_sha256 are of the model in front of the archive

Standard library alone, Python 3.9.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from model.architectures import describe
from model.network import Network
from utils.common.errors import UserError
from utils.common.provenance import check_format

FORMAT = 1  # of network.json
IDENTIFIER = b"TFL3"  # of the flatbuffer, at byte 4
LABELS, NETWORK = "labels.txt", "network.json"
LARGEST = 1 << 24  # bytes of network.json that are read
QUANTIZE = ("none", "float16", "dynamic", "int8")
WRITTEN = (1980, 1, 1, 0, 0, 0)  # a fixed date, so that the same export has the same bytes


@dataclass(frozen=True)
class Description:
    """What a file says of its model."""

    network: Network
    widths: dict[str, int]
    quantize: str  # one of QUANTIZE


def append(model: bytes, labels: Sequence[str], about: Mapping[str, Any]) -> bytes:
    """The .tflite ``model`` with its class names and ``about`` (network, widths, quantize, ...) behind it."""
    content = dict(about, model_bytes=len(model), model_sha256=hashlib.sha256(model).hexdigest())
    buffer = io.BytesIO(model)
    with zipfile.ZipFile(buffer, "a") as archive:
        for name, text in ((LABELS, labels_text(labels)), (NETWORK, json.dumps(content, indent=1) + "\n")):
            archive.writestr(zipfile.ZipInfo(name, WRITTEN), text)
    return buffer.getvalue()


def labels_text(labels: Sequence[str]) -> str:
    """A class name per line."""
    return "".join(" ".join(label.split()) + "\n" for label in labels)


def check(path: Path) -> None:
    """Raise UserError unless there is a file that begins as a .tflite does."""
    path = Path(path)
    if path.is_dir() or not path.exists():
        raise UserError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}; expected a .tflite model, such as "
                        "export.py writes")
    with open(path, "rb") as file:
        start = file.read(8)
    if start[4:] != IDENTIFIER:
        raise UserError(f"{path}: not a .tflite model ({IDENTIFIER.decode()} expected at byte 4, found {start[4:]!r}); "
                        "copy it again, or export it with export.py")


def read(path: Path) -> Optional[Description]:
    """The description in the file, None if there is none (another program made the file).

    Raises UserError if the description is broken, or if the model in front of it is not the one described.
    """
    path, advice = Path(path), "copy the file again, or export it again with export.py"
    try:
        content = _content(path)
    except Exception as error:  # zipfile and json raise many kinds for a broken file
        raise UserError(f"{path}: its {NETWORK} cannot be read ({type(error).__name__}: {error}); {advice}") from None
    if content is None:
        return None
    check_format(path, content, FORMAT)
    try:
        network = describe(**content["network"])
        network.layers(content["widths"])
        description = Description(network, content["widths"], content["quantize"])
    except Exception as error:  # a file that was edited by hand raises many kinds, too
        raise UserError(f"{path}: its {NETWORK} describes no network ({type(error).__name__}: {error}); "
                        f"{advice}") from None
    if description.quantize not in QUANTIZE:
        raise UserError(f"{path}: its {NETWORK} has quantize {description.quantize!r}, expected one of "
                        f"{', '.join(QUANTIZE)}; {advice}")
    if _sha256(path, content.get("model_bytes")) != content.get("model_sha256"):
        raise UserError(f"{path}: damaged, the model in it is not the one that its {NETWORK} describes; {advice}")
    return description


def _content(path: Path) -> Optional[dict[str, Any]]:
    if not zipfile.is_zipfile(path):
        if NETWORK.encode() in _end(path):
            raise ValueError("the archive behind the model is damaged")
        return None
    with zipfile.ZipFile(path) as archive:
        if NETWORK not in archive.namelist():
            return None
        with archive.open(NETWORK) as file:
            text = file.read(LARGEST + 1)
    if len(text) > LARGEST:
        raise ValueError(f"larger than {LARGEST:,} bytes")
    content = json.loads(text)
    if not isinstance(content, dict):
        raise TypeError(f"expected an object, found {type(content).__name__}")
    return content


def _end(path: Path) -> bytes:
    """The end of a file, where an archive lists its files."""
    with open(path, "rb") as file:
        file.seek(max(path.stat().st_size - 4096, 0))
        return file.read()


def _sha256(path: Path, count: Any) -> Optional[str]:
    """Of the first ``count`` bytes of a file; None where it has no more than that."""
    if not isinstance(count, int) or not 0 < count < path.stat().st_size:
        return None
    with open(path, "rb") as file:
        return hashlib.sha256(file.read(count)).hexdigest()
