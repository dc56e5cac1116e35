"""Atomic writes: a file is written beside its place, synced to the disk, then renamed."""

import errno
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Union

from utils.common.errors import UserError

PROJECT = Path(__file__).resolve().parents[2]  # this project's own folder: its scripts, model/ and utils/

_TEMPORARY = re.compile(r"^\..*\.(\d+)\.tmp$")


def write_whole(path: Path, content: Union[bytes, str]) -> None:
    """Write ``content`` to ``path``: all of it, or nothing."""
    write_together({Path(path): content})


def write_together(contents: Mapping[Path, Union[bytes, str]]) -> None:
    """Write several files of one folder, each all or nothing. Old files stay until all new ones are on the disk.

    Then all old files but the first are deleted before the first is replaced: no note is better than a wrong note.
    """
    staged = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in contents}
    path = next(iter(staged))
    try:
        for path, temporary in staged.items():
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "a folder, expected a file")
            _stage(temporary, contents[path])
        for path in list(staged)[1:]:
            path.unlink(missing_ok=True)
        for path, temporary in staged.items():
            os.replace(temporary, path)
    except BaseException as error:
        for temporary in staged.values():
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None  # not the temporary, which means nothing to the user
        raise
    _sync_folder(path.parent)


def _stage(temporary: Path, content: Union[bytes, str]) -> None:
    with open(temporary, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def writable_folder(folder: Union[str, Path]) -> Path:
    """Make the folder, delete temporary files of killed runs, and check that files can be written. Raises UserError."""
    folder = Path(folder)
    probe = folder / f".probe.{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for entry in folder.iterdir():
            found = _TEMPORARY.match(entry.name)
            if found and not _alive(int(found.group(1))):
                entry.unlink(missing_ok=True)
        try:
            probe.write_bytes(b"\n")
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot write there ({error.strerror or error}); "
                        "free space, change its permissions or choose another folder") from error
    return folder


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def locate(name: str, folder: str, suffix: str) -> Path:
    """``NAME`` means ``folder/NAME`` + ``suffix``; a name with a separator or the suffix is already a path."""
    if os.sep in name or name.endswith(suffix):
        return Path(name)
    return Path(folder) / (name + suffix)


def save_name(name: str) -> str:
    """A --save_file without .t7 or .pickle. Raises UserError unless it is a plain name: several folders use it."""
    for suffix in (".t7", ".pickle"):
        if name.endswith(suffix):
            name = name[:-len(suffix)]
    if not name or os.sep in name or name.startswith("."):
        raise UserError(f"--save_file={name!r}: expected a plain name such as res-40-2, without a folder")
    return name
