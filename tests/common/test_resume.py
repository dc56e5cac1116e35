"""Going on with a long job: as it began, or not at all."""

import pytest

from utils.common import journal
from utils.common.errors import UserError
from utils.common.resume import begun, changed_flags

HEADER = {"flags": {"seed": 0}, "table": "abc", "format": 1, "made_by": "1"}


@pytest.mark.parametrize("began, now, words", [
    ({"a": 1, "resume": False}, {"a": 1, "resume": True}, ""),
    ({"a": 1}, {"a": 2}, "--a was 1, now 2"),
    ({"a": 1}, {"a": 1, "b": "x"}, "--b was None, now 'x'"),
    ({"a": 1, "b": 3}, {"a": 2, "b": 4}, "--a was 1, now 2, --b was 3, now 4"),
    ({"a": 1, "free": 3}, {"a": 1, "free": 4}, "")])
def test_flags_that_changed_are_told(began, now, words):
    assert changed_flags(began, now, ("free",)) == words


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "j.jsonl"
    journal.begin(file, HEADER)
    with journal.Journal(file) as log:
        log.append({"n": 1})
    return file


def go_on(path, header, resume=True, at_stake=lambda records: f"{len(list(records))} records", **more):
    return begun(path, header, resume=resume, at_stake=at_stake, over_again="remove it", **more)


def test_a_job_begins_where_there_is_nothing(tmp_path):
    assert go_on(tmp_path / "none", HEADER) is None


def test_the_same_job_goes_on(path):
    began, records = go_on(path, dict(HEADER))
    assert began == HEADER and list(records) == [{"n": 1}]


def test_another_version_goes_on(path):
    assert go_on(path, {**HEADER, "format": 2, "made_by": "2"})[0]["made_by"] == "1"
    with pytest.raises(UserError, match="j.jsonl: format 1, made by version 1; .* reads up to 0"):
        go_on(path, {k: v for k, v in HEADER.items() if k not in ("format", "made_by")})


def test_an_unfinished_job_is_not_written_over(path):
    with pytest.raises(UserError, match="j.jsonl: 1 records; add --resume to go on, or remove it"):
        go_on(path, HEADER, resume=False)
    assert go_on(path, HEADER, resume=False, at_stake=lambda records: "") is None


@pytest.mark.parametrize("change, words", [
    ({"flags": {"seed": 1}}, "j.jsonl: --seed was 0, now 1; resume it as it began"),
    ({"table": "def"}, "j.jsonl: began with table 'abc', now 'def'"),
    ({"more": 1}, "j.jsonl: began with more None, now 1"), ({"flags": 3}, "j.jsonl: began with flags ")])
def test_another_job_is_refused(path, change, words):
    with pytest.raises(UserError, match=words):
        go_on(path, {**HEADER, **change})


def test_what_is_free_may_differ(path):
    assert go_on(path, {**HEADER, "table": "def"}, free=("table",)) is not None


@pytest.mark.parametrize("now, words", [
    ({"net": "b", "description": ["long"]}, "began with network {'net': 'a'}, now {'net': 'b'}; "),
    ({"net": "a", "description": ["long"]}, "network {'net': 'a'}, now {'net': 'a'} (another description); ")])
def test_another_network_is_named_without_its_description(tmp_path, now, words):
    file = tmp_path / "j.jsonl"
    journal.begin(file, {"network": {"net": "a", "description": ["as long"]}})
    with pytest.raises(UserError) as caught:
        begun(file, {"network": now}, resume=True, at_stake=lambda records: "", over_again="")
    assert words in str(caught.value) and "long" not in str(caught.value)
