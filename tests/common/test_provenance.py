"""Where a file comes from: one version in all places, the commit where there is git, newer formats refused."""

import re
import subprocess

import pytest

from tests.helpers import ROOT
from utils.common import provenance
from utils.common.errors import UserError
from utils.common.provenance import VERSION, check_format


def git(folder, *words):
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=folder, check=True,
                   capture_output=True)


def test_one_version_everywhere():
    assert f'\nversion = "{VERSION}"\n' in (ROOT / "pyproject.toml").read_text()
    assert re.search(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1] == VERSION


def test_the_commit_of_a_checkout_and_whether_it_was_changed(tmp_path):
    assert provenance._commit(tmp_path) == ""  # no checkout
    git(tmp_path, "init")
    (tmp_path / "a.py").write_text("1")
    git(tmp_path, "add", "a.py")
    git(tmp_path, "commit", "-m", "one")
    git(tmp_path, "tag", "v9")  # a commit has one name, whatever is tagged
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, capture_output=True, text=True).stdout
    assert provenance._commit(tmp_path) == head[:12]
    (tmp_path / "new.py").write_text("2")  # not in git: a result, say
    assert provenance._commit(tmp_path) == head[:12]
    (tmp_path / "a.py").write_text("3")
    assert provenance._commit(tmp_path) == head[:12] + ".dirty"
    (tmp_path / "unpacked").mkdir()
    assert provenance._commit(tmp_path / "unpacked") == ""  # that commit is somebody else's


def test_without_git_the_version_alone(monkeypatch, tmp_path):
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance._commit(tmp_path) == ""


def test_made_by_is_a_version_as_pep_440_has_it():
    assert re.fullmatch(rf"{re.escape(VERSION)}(\+[0-9a-f]{{12,40}}(\.dirty)?)?", provenance.made_by())


def test_older_is_read_and_newer_refused(tmp_path):
    for content in ({}, {"format": 0}, {"format": 1}, {"format": 2}):
        check_format(tmp_path / "f", content, 2)
    with pytest.raises(UserError, match=rf"f: format 3, made by version 9\.1; this version, {VERSION}, reads up to 2: "
                                        "update the project"):
        check_format(tmp_path / "f", {"format": 3, "made_by": "9.1"}, 2)
    with pytest.raises(UserError, match="f: format 3; this version"):
        check_format(tmp_path / "f", {"format": 3, "made_by": ["x"]}, 2)


@pytest.mark.parametrize("odd", [None, True, "1", 1.0, -1, [1]])
def test_an_odd_format_is_said(tmp_path, odd):
    with pytest.raises(UserError, match="f: format .*, expected a number up to 2"):
        check_format(tmp_path / "f", {"format": odd}, 2)
