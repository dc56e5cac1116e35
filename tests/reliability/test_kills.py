"""A run that is killed at any line of its journal, or at any call that changes files, and then repeated as its user
repeats it, ends as an undisturbed one and leaves nothing behind.

Between two calls the files stay as they are, so a kill at a call is a kill at any moment around it. ``KILLS=100`` kills
every script 100 times; ``KILLS_SEED`` draws other calls.
"""

import os
import random
import shutil

import pytest

from tests.forked import KILL_AFTER, KILL_BEFORE, KILL_HALF
from tests.works import WORKS, begin, results

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("kills")]  # hundreds of runs

SEED = os.environ.get("KILLS_SEED", "0")
KILLS = {"train": 12, "prune": 10, "trade": 10, "compare": 5, "export": 6, "save": 12, "import": 20, "build": 60,
         "few": 40}  # by default
CHAIN = 4  # kills, one after another, before a run may end
JOURNALS = {"prune": "history/pruned.unfinished.jsonl", "trade": "history/traded.unfinished.jsonl",
            "build": "perf_tables/built.journal",
            "few": "perf_tables/few.journal",
            "load": "perf_tables/loaded.journal", "save": "f/checksums-1-of-1.journal",
            "compare": "comparisons/c/journal.jsonl"}
MEASURED = ("build", "load")  # resumed, they first write a line that nothing depends on: the probe's


@pytest.fixture(scope="session")
def undisturbed(forks, furnished, tmp_path_factory):
    """run(name) -> (results, calls) of a run that nothing disturbs."""
    known = {}

    def run(name):
        if name not in known:
            folder = tmp_path_factory.mktemp(name)
            begin(WORKS[name], furnished, folder)
            ran = forks.run(folder, *WORKS[name].flags)
            assert ran.code == 0, ran.stderr
            known[name] = results(WORKS[name], folder), ran.calls
        return known[name]
    return run


def progress(path):
    """The lines of a journal that are not written anew whenever a work is resumed."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return sum(line.endswith(b"\n") and not line.startswith((b'{"probe"', b'{"finished"')) for line in lines)


def finished(forks, work, folder, expected, where):
    """Let it end, and look at what there is."""
    ran = forks.run(folder, *work.again)
    assert ran.code == 0, (where, ran.stderr)
    assert results(work, folder) == expected, where
    left = [str(p) for p in folder.rglob("*") if p.name.endswith((".tmp", ".lock", ".next"))
            or ".unfinished." in p.name or p.suffix == ".candidates"]
    assert left == [], where


def check_killed(work, folder, expected, where):
    """After a kill there is no result, or the whole one."""
    found = results(work, folder)
    for name, content in found.items():
        if name.endswith(".csv") and content:
            assert set(content.splitlines()) <= set(expected[name].splitlines()), where
        elif name == "f" and content:
            assert all(expected["f"][p] == raw for p, raw in content.items() if p.endswith(".tflite")), where
        else:
            assert content in (None, expected[name]), (where, name)


@pytest.mark.parametrize("how", [KILL_AFTER, KILL_HALF], ids=["after a line", "within a line"])
@pytest.mark.parametrize("name", JOURNALS)
def test_killed_at_every_line_of_a_journal(forks, furnished, undisturbed, tmp_path, name, how, record_property):
    """The run is killed at the first line that it writes, again and again. Where that line is one that resuming writes
    anew, the next kill comes a line later."""
    work, (expected, calls) = WORKS[name], undisturbed(name)
    begin(work, furnished, tmp_path)
    only, first = f" write {os.path.realpath(tmp_path)}/{JOURNALS[name]}\n", 1 + (how == KILL_HALF)
    lines = sum(call.name == "write" and call.path.endswith(JOURNALS[name]) for call in calls)
    kills, chosen, most = 0, first, 0
    while (ran := forks.run(tmp_path, *work.again, chosen=chosen, how=how, only=only)).code != 0:
        assert ran.code == -9, ran.stderr
        kills += 1
        check_killed(work, tmp_path, expected, f"kill {kills}")
        written = progress(tmp_path / JOURNALS[name])
        if written <= most or not work.resumes:
            chosen += 1
        elif name not in MEASURED:
            chosen = first
        most = max(written, most)
        assert kills <= 5 * lines + 5, "it does not come forward"
    finished(forks, work, tmp_path, expected, f"after {kills} kills")
    assert kills >= lines - 3
    record_property("kills", f"{name}, {'after' if how == KILL_AFTER else 'within'} a line: {kills} of {lines} lines")


@pytest.mark.parametrize("name", WORKS)
def test_killed_at_random_calls(forks, furnished, undisturbed, tmp_path, name, record_property):
    work, (expected, calls) = WORKS[name], undisturbed(name)
    wanted, draw = int(os.environ.get("KILLS", KILLS.get(name, 100))), random.Random(f"{SEED} {name}")
    kills, chains = 0, 0
    while kills < wanted:
        folder, chains, story = tmp_path / str(chains), chains + 1, []
        folder.mkdir()
        begin(work, furnished, folder)
        for _ in range(CHAIN):
            chosen, how = draw.randint(1, len(calls)), draw.choice((KILL_BEFORE, KILL_AFTER, KILL_HALF))
            ran = forks.run(folder, *work.again, chosen=chosen, how=how)
            story.append((chosen, how, ran.calls[-1]))
            if ran.code == 0:
                break
            assert ran.code == -9, (story, ran.stderr)
            kills += 1
            check_killed(work, folder, expected, story)
        finished(forks, work, folder, expected, story)
        shutil.rmtree(folder)
    record_property("kills", f"{name}, at random: {kills} in {chains} chains")
