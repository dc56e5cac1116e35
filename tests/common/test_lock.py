"""One run at a time: by the system's lock, and by a file where a file system refuses that."""

import errno
import os
import subprocess
import sys

import pytest

from tests.helpers import ROOT
from utils.common import lock
from utils.common.errors import UserError
from utils.common.lock import locked


@pytest.fixture(params=["flock", "a file system that refuses it"])
def path(request, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")
    if request.param != "flock":
        monkeypatch.setattr(lock.fcntl, "flock", refuse)
    return tmp_path / "a.t7"


def test_a_second_writer_is_refused_while_the_first_writes_and_told_who_that_is(path):
    words = rf"a.t7: another process is writing it \(host .+, process {os.getpid()}, since \d{{4}}-.*\); wait for"
    with locked(path):
        for _ in range(2):
            with pytest.raises(UserError, match=words), locked(path):
                pass
    with locked(path):
        pass
    assert not list(path.parent.iterdir())


def test_a_lock_goes_with_its_holder(path, tmp_path):
    """A killed process keeps no lock of the system; its file is taken over when it was not touched for long."""
    refusing = lock.fcntl.flock.__name__ == "refuse"
    code = (f"import sys, os; sys.path.insert(0, {str(ROOT)!r})\nfrom utils.common import lock\n"
            + ("def refuse(*_): raise OSError(37, 'x')\nlock.fcntl.flock = refuse\n" if refusing else "")
            + f"with lock.locked({str(path)!r}):\n    print('held', flush=True)\n    sys.stdin.read()\n")
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"process {process.pid}, since"), locked(path):
            pass
        process.kill()
    if refusing:
        with pytest.raises(UserError, match="another process is writing it"), locked(path):
            pass
        held = tmp_path / ".a.t7.held"
        os.utime(held, (held.stat().st_mtime - lock.STALE_S - 1,) * 2)
    with locked(path):
        pass
    assert not list(tmp_path.iterdir())


def test_a_holder_touches_its_file(path, tmp_path, monkeypatch):
    if lock.fcntl.flock.__name__ != "refuse":
        pytest.skip("the system's lock needs no touching")
    touched, beaten = [], lock.threading.Event()
    monkeypatch.setattr(lock, "BEAT_S", 0.001)
    monkeypatch.setattr(lock.os, "utime", lambda file: (touched.append(file), beaten.set()))
    with locked(path):
        assert beaten.wait(60)
    assert touched[0] == tmp_path / ".a.t7.held"


def test_other_errors_of_the_file_system_are_said(tmp_path, monkeypatch):
    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")
    monkeypatch.setattr(lock.fcntl, "flock", broken)
    with pytest.raises(OSError, match="Input/output error"), locked(tmp_path / "a.t7"):
        pass
