"""One run at a time for a result: a lock file beside it says who writes it.

The lock is the system's (``flock`` of .NAME.lock), which a killed process loses at once. Some network file systems
refuse that. There a file itself is the lock, .NAME.held: it is made only if there is none, its holder touches it every
minute, and one that was not touched for ten minutes is taken over, whichever host it is of.
"""

import contextlib
import errno
import fcntl
import os
import platform
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Optional

from utils.common.errors import UserError

BEAT_S, STALE_S = 60.0, 600.0
REFUSED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # flock is not what this file system does


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from writing the result ``path``. Raises UserError if one does, and says which."""
    lock = Path(path).with_name(f".{Path(path).name}.lock")
    held, ended = _flocked(lock, path), threading.Event()
    if held is None:
        lock = lock.with_suffix(".held")
        _made(lock, path)
        threading.Thread(target=_beat, args=(lock, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        with contextlib.suppress(OSError):
            lock.unlink(missing_ok=True)
        if held is not None:
            held.close()


def _flocked(lock: Path, path: Path) -> Optional[IO[str]]:
    """The open and locked file; None where the file system refuses locks."""
    while True:
        file = open(lock, "a+", encoding="utf-8")  # noqa: SIM115  (closed by ``locked``)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                raise _held(lock, path) from None
        except OSError as error:
            file.close()
            if error.errno not in REFUSED:
                raise
            lock.unlink(missing_ok=True)
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(lock)):
                file.truncate(0)
                file.write(_who())
                file.flush()
                return file
        file.close()  # its holder removed it before it was ours


def _made(lock: Path, path: Path) -> None:
    """Make the lock file; one that is stale is taken over."""
    while True:
        try:
            with open(lock, "x", encoding="utf-8") as file:
                file.write(_who())
            return
        except FileExistsError:
            pass
        with contextlib.suppress(FileNotFoundError):
            if time.time() - lock.stat().st_mtime < STALE_S:
                raise _held(lock, path)
            aside = lock.with_name(f"{lock.name}.{os.getpid()}")
            os.rename(lock, aside)  # one of those that find it stale has it, the others find none
            aside.unlink()


def _beat(lock: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT_S):
        with contextlib.suppress(OSError):
            os.utime(lock)


def _who() -> str:
    return f"host {platform.node()}, process {os.getpid()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}"


def _words(lock: Path) -> str:
    """What the holder wrote."""
    try:
        return " ".join(lock.read_text(encoding="utf-8", errors="replace")[:200].split())
    except OSError:
        return ""


def _held(lock: Path, path: Path) -> UserError:
    words = _words(lock)
    return UserError(f"{path}: another process is writing it{f' ({words})' if words else ''}; wait for that to end, or "
                     "choose another name")
