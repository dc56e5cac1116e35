"""Atomic writes: a file is written beside its place, synced to the disk, then renamed."""

import contextlib
import errno
import os
import platform
import re
import zlib
from pathlib import Path
from typing import Union

from utils.common.errors import UserError

PROJECT = Path(__file__).resolve().parents[2]  # this project's own folder: its scripts, model/ and utils/

RESERVED = (".unfinished", ".candidates")  # ends of names: an unfinished run's own files have them
_TEMPORARY = re.compile(r"^\..*\.([0-9a-f]{8})-(\d+)\.tmp$")


def write_whole(path: Path, content: Union[bytes, str]) -> None:
    """Write ``content`` to ``path``: all of it, or nothing. A link stays a link: what it points to is replaced."""
    path = Path(path)
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{_who()}.tmp")
    try:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "a folder, expected a file")
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        place(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None  # not the temporary, which means nothing to the user
        raise


def place(temporary: Path, path: Path) -> None:
    """Rename a file that is whole on the disk to ``path``, or to what the link ``path`` points to."""
    target = os.path.realpath(path)
    os.replace(temporary, target)
    with contextlib.suppress(OSError):  # some network file systems refuse it; the file is whole and in its place
        descriptor = os.open(os.path.dirname(target), os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _who() -> str:
    """The host or container, and the process: those of another one tell nothing about its process numbers here."""
    try:
        numbers = os.readlink("/proc/self/ns/pid")  # where process numbers are those of this process
    except OSError:
        numbers = ""
    return f"{zlib.crc32(f'{platform.node()} {numbers}'.encode()):08x}-{os.getpid()}"


def writable_folder(folder: Union[str, Path]) -> Path:
    """Make the folder, delete temporary files that killed runs of this host left, and check that files can be written.
    Raises UserError."""
    folder, here = Path(folder), _who().split("-")[0]
    probe = folder / f".probe.{_who()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for entry in folder.iterdir():
            found = _TEMPORARY.match(entry.name)
            if found and found[1] == here and not _alive(int(found[2])):
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
    if name.endswith(RESERVED):
        raise UserError(f"--save_file={name!r}: such a name is that of a run's own files; choose another")
    return name
