"""The folder of .tflite files that ``compute_table.py --mode=save`` makes and ``--mode=load`` times.

    FOLDER/manifest.json                for which network the files are
    FOLDER/checksums-N-of-M.journal     the SHA-256 of every file that shell N of M wrote or found whole
    FOLDER/KEY/KEY_CIN_COUT.tflite      one operator at one width

Reading needs NumPy alone; writing loads the flatbuffer schema, or TensorFlow for --converter=keras.
"""

import contextlib
import hashlib
import importlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Callable

from model.architectures import describe
from model.network import Network
from model.timed import Table
from model.variant import network_of
from utils.common import journal
from utils.common.checksum import checked, keeps_edits, note_without, signed_json
from utils.common.errors import UserError
from utils.common.files import writable_folder, write_whole
from utils.common.journal import Journal
from utils.common.provenance import check_format, stamp
from utils.common.workers import Workers
from utils.latency import writing
from utils.latency.entries import Entries

FORMAT = 1  # of the manifest
CHUNK = 64  # files per task of a worker process


def file_path(folder: Path, table: Table, cin: int, cout: int) -> Path:
    return Path(folder) / table.key / f"{table.key}_{cin}_{cout}.tflite"


def check_manifest(folder: Path, network: Network, num_images: int) -> dict[str, Any]:
    """The folder's manifest. Raises UserError unless the folder was made for this network and batch."""
    path = Path(folder) / "manifest.json"
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: missing; make the files with compute_table.py --mode=save "
                        f"--output_folder={folder}") from None
    except ValueError:
        raise UserError(f"{path}: not whole JSON; make the folder again") from None
    if isinstance(manifest, dict):
        check_format(path, manifest, FORMAT)
        checked(path, manifest, keeps_edits("make the folder again"))
    wanted = {"network": network.arguments, "num_images": num_images}
    for key, value in wanted.items():
        found = manifest.get(key) if isinstance(manifest, dict) else None
        if found != value:
            raise UserError(f"{path}: these files are for {key} {_settings(found)}, asked for {_settings(value)}; "
                            "change the flags or name another --output_folder")
    note_without(path, manifest)
    return manifest


def _settings(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    return ", ".join(f"{k}={v}" if k != "description" else "another description" for k, v in value.items())


def missing_files(folder: Path, entries: Entries, wanted: Iterable[int]) -> list[Path]:
    """Of the entries with these numbers."""
    return [p for p in (file_path(folder, *entries[int(n)]) for n in wanted) if not p.is_file()]


Checksums = Mapping[str, frozenset[str]]  # of a file's name: two shells may have written it, each its own bytes


def read_checksums(folder: Path) -> Checksums:
    """What all shells recorded; {}, with a word, for a folder of an older version. Raises UserError."""
    found: dict[str, set[str]] = {}
    paths = sorted(Path(folder).glob("checksums-*.journal"))
    for path in paths:
        _, records = journal.read(path) or ({}, [])
        for record in records:
            for name, checksum in record.items() if isinstance(record, dict) else ():
                found.setdefault(name, set()).add(checksum)
    if not paths:
        note_without(Path(folder))
    return {name: frozenset(checksums) for name, checksums in found.items()}


def whole_file(folder: Path, checksums: Checksums, table: Table, cin: int, cout: int) -> Path:
    """The path of an entry's file. Raises UserError where the file is not the one that was written for it."""
    path = file_path(folder, table, cin, cout)
    if checksums and hashlib.sha256(path.read_bytes()).hexdigest() not in checksums.get(path.name, ()):
        raise UserError(f"{path}: not the file that --mode=save wrote (its checksum differs, or was never recorded); "
                        "run --mode=save again, then go on with --resume")
    return path


def write_share(folder: Path, network: Network, *, num_images: int, converter: str, wanted: Iterable[int],
                jobs: int, share: tuple[int, int] = (1, 1)) -> Iterator[tuple[int, int]]:
    """Write the files of the entries with these numbers. Yields (files written, files already complete) after every
    chunk.

    converter: "direct" (model/tflite_net.py) or "keras" (TensorFlow's). A complete file is kept. share: the number of
    this shell, and the number of shells.
    """
    manifest = Path(folder) / "manifest.json"
    if manifest.exists():
        found = check_manifest(folder, network, num_images)
        if found.get("converter") != converter:
            raise UserError(f"{manifest}: these files were made with --converter={found.get('converter')}; "
                            "name another --output_folder")
    _import_converter(converter)
    about = {"network": network.arguments, "num_images": num_images, "converter": converter}
    if not manifest.exists():
        write_whole(manifest, signed_json({**stamp(FORMAT), **about}))
    for key in network.tables:
        writable_folder(Path(folder) / key)
    entries = Entries(network)
    work = [(table.key, cin, cout) for table, cin, cout in (entries[int(n)] for n in wanted)]
    chunks = [work[i:i + CHUNK] for i in range(0, len(work), CHUNK)]
    task = partial(_write_chunk, Path(folder))
    checksums = Path(folder) / f"checksums-{share[0]}-of-{share[1]}.journal"
    journal.begin(checksums, stamp(FORMAT))
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(Journal(checksums))
        made = ((task(about, chunk) for chunk in chunks) if jobs == 1 else
                stack.enter_context(Workers(jobs)).results(task, (about,), chunks))
        for written, found in made:
            log.append(found)
            yield written, len(found) - written


def _write_chunk(folder: Path, about: Mapping[str, Any],
                 chunk: Sequence[tuple[str, int, int]]) -> tuple[int, dict[str, str]]:
    """The number of files written, and the checksums of all. about: what the manifest says."""
    tables, converter = describe(**about["network"]).tables, about["converter"]
    make = {"direct": writing.variant, "keras": keras_bytes}[converter]
    written, checksums = 0, {}
    for key, cin, cout in chunk:
        path = file_path(folder, tables[key], cin, cout)
        content = partial(make, about["num_images"], tables[key], cin, cout)
        if not _is_whole(path, content, converter):
            write_whole(path, content())
            written += 1
        checksums[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return written, checksums


def _is_whole(path: Path, content: Callable[[], bytes], converter: str) -> bool:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return False
    if converter == "direct":
        return raw == content()
    # Keras' bytes differ from run to run: parse them
    from ai_edge_litert.schema_py_generated import ModelT
    try:
        return raw[4:8] == b"TFL3" and bool(ModelT.InitFromPackedBuf(raw, 0).subgraphs)
    except Exception:  # a torn flatbuffer points anywhere
        return False


def _import_converter(converter: str) -> None:
    """Fail before anything is written if a package is missing."""
    writing.needed_writer()
    if converter == "keras":
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        importlib.import_module("model.keras_net")


def keras_bytes(num_images: int, table: Table, cin: int, cout: int) -> bytes:
    from model import keras_net
    random_weights = writing.needed_writer().random_weights
    network = network_of(table, cin, cout)
    widths = network.full_widths
    with contextlib.redirect_stdout(io.StringIO()):  # the converter talks
        return keras_net.to_tflite(keras_net.build(network, widths, random_weights(network, widths), num_images))
