"""Progress: every item comes through, and a log has a line now and then."""

import re
import sys

import pytest

from utils.common import progress as module
from utils.common.progress import progress


@pytest.fixture
def every_time(monkeypatch):
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", -1.0)


def test_items_come_through_and_short_work_says_nothing(capsys):
    assert list(progress(range(5), "working")) == [0, 1, 2, 3, 4]
    assert list(progress(iter("ab"), "working", 2)) == ["a", "b"] and list(progress([], "working")) == []
    assert capsys.readouterr() == ("", "")


def test_a_line_says_how_many_of_how_many_and_how_long_still(capsys, every_time):
    assert list(progress(range(3), "working")) == [0, 1, 2]
    lines = capsys.readouterr().err.splitlines()
    assert [re.fullmatch(r"working: (\d) of 3, \d+\.\d min left", line)[1] for line in lines] == ["1", "2", "3"]
    assert lines[-1].endswith(" 0.0 min left")


def test_the_first_of_many_items_says_nothing_of_the_rest(capsys, every_time):
    """It may have waited for the machine: a line once told 12,007 minutes, of work of one minute."""
    assert len(list(progress(range(201), "working"))) == 201
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["working: 1 of 201", "working: 2 of 201"]
    assert all(line.endswith(" min left") for line in lines[2:])


def test_what_a_resumed_job_did_before_counts(capsys, every_time):
    list(progress(range(2), "working", done=1_000))
    assert [line.split(",")[0] + "," + line.split(",")[1] for line in capsys.readouterr().err.splitlines()] == [
        "working: 1,001 of 1", "working: 1,002 of 1"]


def test_a_terminal_has_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(progress(range(3), "working")) == [0, 1, 2]
    assert "working" in capsys.readouterr().err


def test_a_terminal_without_tqdm_has_lines(capsys, monkeypatch, every_time):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert list(progress(range(1), "working")) == [0] and "working: 1 of 1" in capsys.readouterr().err
