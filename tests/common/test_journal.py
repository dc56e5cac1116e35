"""Journals: what is appended is there, a torn last line is dropped, a broken one is said."""

import json

import pytest

from utils.common import journal
from utils.common.errors import UserError
from utils.common.journal import Journal

HEADER, RECORDS = {"job": "x"}, [{"a": 1}, ["b", 2, [1e-5]], "c"]


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "j.jsonl"
    journal.begin(file, HEADER)
    with Journal(file) as log:
        for record in RECORDS:
            log.append(record)
    return file


def test_what_was_appended_is_read_in_order(path):
    assert journal.read(path) == (HEADER, RECORDS) and journal.header_of(path) == HEADER


def test_a_line_is_there_as_soon_as_it_is_appended(path):
    with Journal(path) as log:
        log.append("d")
        assert path.read_text().endswith('"d"\n')


@pytest.mark.parametrize("torn", ['{"a', "x" * 200_000, '"whole but for its end"'])
def test_a_torn_last_line_is_cut_off_the_file(path, torn):
    before = path.read_text()
    path.write_text(before + torn)
    assert journal.read(path) == (HEADER, RECORDS) and path.read_text() == before


def test_a_broken_line_in_the_middle_is_named(path):
    path.write_text(path.read_text().replace('{"a": 1}', '{"a": 1'))
    with pytest.raises(UserError, match="j.jsonl: line 2 is not JSON; remove the file to begin again"):
        journal.read(path)


@pytest.mark.parametrize("text", ["", "[]\n", '"x"\n', "3"])
def test_another_file_is_no_journal(path, text):
    path.write_text(text)
    with pytest.raises(UserError, match="j.jsonl: no journal of this project"):
        journal.read(path)


def test_where_there_is_none(tmp_path):
    assert journal.read(tmp_path / "none") is None and journal.header_of(tmp_path / "none") == {}


@pytest.mark.parametrize("text", ["", "[]\n", "{", "[" * 100_000])
def test_a_header_that_cannot_be_read_is_none_and_the_file_stays(path, text):
    path.write_text(text)
    assert journal.header_of(path) == {} and path.read_text() == text


def test_a_second_writer_is_refused_while_the_first_writes(path):
    refused = pytest.raises(UserError, match="j.jsonl: another process is writing it")
    with journal.locked(path), refused, journal.locked(path):
        pass
    with journal.locked(path):
        pass
    assert [p.name for p in path.parent.iterdir()] == ["j.jsonl"]


def test_a_line_is_one_line():
    assert json.loads(journal.line({"text": "two\nlines"})) == {"text": "two\nlines"}
    assert journal.line("two\nlines").count("\n") == 1
