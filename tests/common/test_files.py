"""Files land whole or not at all, and names find their folders."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from utils.common import files
from utils.common.errors import UserError
from utils.common.files import locate, save_name, writable_folder, write_together, write_whole


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
    write_together({tmp_path / "table": "old", tmp_path / "note": "old"})
    monkeypatch.setattr(files.os, broken, full_disk)
    with pytest.raises(OSError) as caught:
        write_together({tmp_path / "table": "new", tmp_path / "note": "new"})
    assert caught.value.filename == str(tmp_path / "table") and caught.value.filename2 is None
    assert (tmp_path / "table").read_text() == "old"
    assert not [name for name in names(tmp_path) if name.endswith(".tmp")]
    if broken == "fsync":
        assert (tmp_path / "note").read_text() == "old"


def test_better_no_note_than_the_note_of_another_table(tmp_path, monkeypatch):
    """The second file is gone while the first is replaced."""
    table, note, seen = tmp_path / "table", tmp_path / "note", []
    write_together({table: "old", note: "old"})
    real = os.replace

    def watched(source, target):
        seen.append((Path(target).name, note.exists()))
        real(source, target)
    monkeypatch.setattr(files.os, "replace", watched)
    write_together({table: "new", note: "new"})
    assert seen == [("table", False), ("note", False)] and table.read_text() == note.read_text() == "new"


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write_whole(tmp_path / "a", "x")
    assert caught.value.filename == str(tmp_path / "a") and names(tmp_path) == ["a"]


def test_what_a_killed_process_left_is_cleared_and_what_a_living_one_writes_is_not(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead, alive, other = f".a.{ended.pid}.tmp", f".a.{os.getpid()}.tmp", ".hidden.tmp"
    for name in (dead, alive, other):
        (tmp_path / name).write_text("x")
    assert writable_folder(tmp_path) == tmp_path
    assert names(tmp_path) == sorted([alive, other])


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
