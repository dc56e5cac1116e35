"""Every call that changes files fails in turn: what stood there stays, or the new result is whole; the error is one
line; the same command then ends as if nothing had happened.

The calls are open, write, fsync, rename, unlink, mkdir and the like, under the folder in which a script runs. A call
fails alone, or it and all after it, as on a full disk. ``ALL_CALLS=1`` takes every call of the long scripts, too.
"""

import errno
import os
import random
import shutil

import pytest

from tests.forked import ERRORS, FAIL, FAIL_ON
from tests.works import WORKS, begin, result, results

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("calls")]  # a run for each call

MOST = {"prune": 20, "compare": 8, "build": 40, "few": 40, "save": 12, "load": 40}  # calls to take, of many
OLDER = b"an older result"


@pytest.fixture(scope="session")
def stations(forks, furnished, tmp_path_factory):
    """{work: (a folder in which an older result stands, the new results, the calls that write them)}"""
    found = {}
    for name, work in WORKS.items():
        home = tmp_path_factory.mktemp(name)
        begin(work, furnished, home)
        if work.older:
            assert forks.run(home, *work.flags, *work.older).code == 0
        elif name == "export":
            (home / work.results[0]).write_bytes(OLDER)
        new = shutil.copytree(home, tmp_path_factory.mktemp(name) / "new")
        run = forks.run(new, *work.flags)
        assert run.code == 0, run.stderr
        found[name] = home, results(work, new), run.calls
    return found


def taken(name, calls, how):
    """The numbers of the calls that are to fail: all, or a sample."""
    numbers = [call.number for call in calls]
    if os.environ.get("ALL_CALLS"):
        return numbers
    most = min(MOST.get(name, len(calls)), len(calls))
    return sorted(random.Random(f"{name} {how}").sample(numbers, most if how == FAIL else most // 2))


def check_between(work, folder, old, new, run, call):
    """After a failure: one line, and every result is the old one or the new one."""
    assert "Traceback" not in run.stderr, run.stderr
    where = f"{call.number} {call.name} {call.path}"
    if run.code == 0:
        assert {name: result(folder, name) for name in work.results} == new, where
        return "succeeded"
    assert run.code == 2, (where, run)
    lines = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and run.stderr.strip().endswith(lines[0]), (where, run.stderr)
    assert ".tmp" not in lines[0], (where, lines)
    for name in work.results:
        found = result(folder, name)
        if name == "f" and found is not None:
            assert all(new[name][p] == raw for p, raw in found.items() if p.endswith(".tflite")), where
            continue
        some = name.endswith(".csv") and found and set(found.splitlines()) <= set(new[name].splitlines())
        assert some or found in (old[name], new[name]), (where, name)
    return "refused"


@pytest.mark.parametrize("how", [FAIL, FAIL_ON], ids=["once", "from then on"])
@pytest.mark.parametrize("name", WORKS)
def test_a_call_that_fails_leaves_the_old_result_or_the_new_one(forks, stations, tmp_path, name, how, record_property):
    work, (home, new, calls) = WORKS[name], stations[name]
    old, ends = results(work, home), []
    for turn, number in enumerate(taken(name, calls, how)):
        call, folder = calls[number - 1], shutil.copytree(home, tmp_path / str(number))
        error = ERRORS[turn % len(ERRORS)]
        run = forks.run(folder, *work.flags, chosen=number, how=how, error=error)
        ends.append(check_between(work, folder, old, new, run, call))
        picture = any(os.path.basename(p) in call.path for p in work.pictures)
        if picture and how == FAIL:
            assert run.code == 0, (call, run.stderr)
        again = forks.run(folder, *work.again)
        if work.older and again.code == 2:  # nothing of it was begun: what stands there began with other flags
            again = forks.run(folder, *work.flags)
        assert again.code == 0, (call, errno.errorcode[error], run.stderr, again.stderr)
        assert results(work, folder) == new, (call, errno.errorcode[error])
        shutil.rmtree(folder)
    assert "refused" in ends
    record_property("calls", f"{name}: {len(ends)} of {len(calls)} failed, {ends.count('refused')} ended in an error")
