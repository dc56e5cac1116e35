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
    assert journal.read(path) == (HEADER, RECORDS)


def test_a_line_is_there_as_soon_as_it_is_appended(path):
    with Journal(path) as log:
        log.append("d")
        assert path.read_text().endswith(journal.line("d"))


@pytest.mark.parametrize("torn", ['{"a', "x" * 200_000, '"whole but for its end"'])
def test_a_torn_last_line_is_cut_off_the_file(path, torn):
    before = path.read_text()
    path.write_text(before + torn)
    assert journal.read(path) == (HEADER, RECORDS) and path.read_text() == before


def test_a_broken_line_in_the_middle_is_named(path):
    without_checksums(path)
    path.write_text(path.read_text().replace('{"a": 1}', '{"a": 1'))
    with pytest.raises(UserError, match="j.jsonl: line 2 is not JSON; remove the file to begin again"):
        journal.read(path)


def without_checksums(path):
    """As older versions wrote it."""
    path.write_text("".join(line.split("\t")[0] + "\n" for line in path.read_text().splitlines()))


def test_a_journal_of_an_older_version_is_gone_on_with(path, capsys):
    without_checksums(path)
    with Journal(path) as log:
        log.append("new")
    assert journal.read(path) == (HEADER, [*RECORDS, "new"])
    assert "j.jsonl: carries no checksum" in capsys.readouterr().err
    path.write_text(path.read_text() + '"without"\n')  # behind one that has a checksum
    with pytest.raises(UserError, match="j.jsonl: line 6 is damaged"):
        journal.read(path)


def test_a_flipped_bit_is_seen_or_costs_the_last_line(path):
    """A journal loses its last line where the line's end is hurt, as where the machine crashed in it."""
    whole, seen = path.read_bytes(), 0
    for bit in range(8 * len(whole)):
        hurt = bytearray(whole)
        hurt[bit // 8] ^= 1 << bit % 8
        path.write_bytes(hurt)
        try:
            assert journal.read(path) in ((HEADER, RECORDS), (HEADER, RECORDS[:-1])), bit
        except UserError:
            seen += 1
    assert seen > 8 * len(whole) - 20


@pytest.mark.parametrize("text", ["", "[]\n", '"x"\n', "3"])
def test_another_file_is_no_journal(path, text):
    path.write_text(text)
    with pytest.raises(UserError, match="j.jsonl: no journal of this project"):
        journal.read(path)


def test_where_there_is_none(tmp_path):
    assert journal.read(tmp_path / "none") is None

def test_a_line_is_one_line():
    text, crc = journal.line({"text": "two\nlines\tand more"}).split("\t")
    assert json.loads(text) == {"text": "two\nlines\tand more"} and len(crc) == 9 and crc.endswith("\n")
