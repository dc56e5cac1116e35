"""Files land whole or not at all, and names find their folders."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from utils.common import files
from utils.common.errors import UserError
from utils.common.files import locate, save_name, writable_folder, write_whole


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "a.txt"
    for content, expected in ((b"\x00one", b"\x00one"), ("zwei é", "zwei é".encode())):
        write_whole(path, content)
        assert path.read_bytes() == expected
    assert names(tmp_path) == ["a.txt"]


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device", "what nobody knows")


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_what_stood_there_stays_where_writing_fails(tmp_path, monkeypatch, broken):
    (tmp_path / "a").write_text("old")
    monkeypatch.setattr(files.os, broken, full_disk)
    with pytest.raises(OSError) as caught:
        write_whole(tmp_path / "a", "new")
    assert caught.value.filename == str(tmp_path / "a") and caught.value.filename2 is None
    assert (tmp_path / "a").read_text() == "old" and names(tmp_path) == ["a"]


def test_a_folder_that_cannot_be_synced_costs_nothing(tmp_path, monkeypatch):
    """Some network file systems refuse it."""
    real = os.fsync
    monkeypatch.setattr(files.os, "fsync", lambda d: full_disk() if os.path.isdir(f"/proc/self/fd/{d}") else real(d))
    write_whole(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new" and names(tmp_path) == ["a"]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/a").write_text("old")
    (tmp_path / "a").symlink_to("disk/a")
    write_whole(tmp_path / "a", "new")
    assert (tmp_path / "a").is_symlink() and (tmp_path / "disk/a").read_text() == "new"
    assert names(tmp_path) == ["a", "disk"] and names(tmp_path / "disk") == ["a"]


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write_whole(tmp_path / "a", "x")
    assert caught.value.filename == str(tmp_path / "a") and names(tmp_path) == ["a"]


def test_what_a_killed_process_left_is_cleared_and_what_a_living_one_writes_is_not(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here = files._who().split("-")[0]
    dead, alive, other = f".a.{here}-{ended.pid}.tmp", f".a.{here}-{os.getpid()}.tmp", ".hidden.tmp"
    elsewhere = f".a.{'0' * 8 if here != '0' * 8 else '1' * 8}-{ended.pid}.tmp"  # another host or container
    for name in (dead, alive, other, elsewhere):
        (tmp_path / name).write_text("x")
    assert writable_folder(tmp_path) == tmp_path
    assert names(tmp_path) == sorted([alive, other, elsewhere])


def test_a_folder_is_made_with_those_above_it_and_one_that_cannot_be_is_said(tmp_path):
    assert writable_folder(str(tmp_path / "a/b")).is_dir() and names(tmp_path / "a/b") == []
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/b: cannot write there \(Not a directory\); free space, change"):
        writable_folder(tmp_path / "file/b")


@pytest.mark.parametrize("name, path", [("res-40-2", "tables/res-40-2.pickle"), ("a.pickle", "a.pickle"),
                                        ("./a", "a"), ("x/a", "x/a"), ("/x/a.pickle", "/x/a.pickle"),
                                        ("a.t7", "tables/a.t7.pickle")])
def test_a_name_means_a_file_in_its_folder_and_a_path_stays(name, path):
    assert locate(name, "tables", ".pickle") == Path(path)


@pytest.mark.parametrize("name, saved", [("a", "a"), ("a.t7", "a"), ("a.pickle", "a"), ("res-16-0.5", "res-16-0.5")])
def test_a_known_suffix_may_be_typed_along(name, saved):
    assert save_name(name) == saved


@pytest.mark.parametrize("name", ["", ".t7", "a/b", "/a", "..", ".hidden"])
def test_a_save_file_is_a_plain_name(name):
    with pytest.raises(UserError, match="--save_file=.*expected a plain name"):
        save_name(name)


@pytest.mark.parametrize("name", ["a.unfinished", "a.unfinished.t7", "a.candidates"])
def test_the_name_of_an_unfinished_run_is_no_save_file(name):
    with pytest.raises(UserError, match="that of a run's own files"):
        save_name(name)
