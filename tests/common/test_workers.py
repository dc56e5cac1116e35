"""Workers: shared arrays, deaths, too little memory, and the process that explains Ray's end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from utils.common.errors import UserError
from utils.common.workers import Workers, worker_number

ROOT = Path(__file__).resolve().parents[2]  # nothing of tests/helpers.py: every worker would load torch for it


def wait_until(condition):
    """For a minute at most."""
    until = time.monotonic() + 60
    while not condition() and time.monotonic() < until:
        time.sleep(0.005)


def square(common, task):
    return task, int(common["numbers"][task]) ** 2, os.getpid()


def dies_once(common, task):
    mark = Path(common["folder"]) / f"died-{task}"
    if task == 3 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def dies_in_a_worker(common, task):
    if os.getpid() != common["parent"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def needs_it_all(common, task):
    """Too little memory as long as another one is in hand; the first ones wait until that is so."""
    folder = Path(common["folder"])
    mine, met = folder / f"running-{os.getpid()}", folder / "met"
    mine.touch()
    others = lambda: [p for p in folder.glob("running-*") if p != mine and Path("/proc", p.name[8:]).exists()]
    wait_until(lambda: others() or met.exists())
    found = bool(others())
    met.touch()
    mine.unlink()
    if found:
        raise MemoryError("CUDA out of memory")
    return task


def too_large(common, task):
    raise MemoryError("CUDA out of memory")


def test_every_task_is_done_once_on_arrays_that_are_shared():
    common = {"numbers": np.arange(100_000)}
    with Workers(2) as workers:
        found = list(workers.results(square, (common,), list(range(40))))
        again = list(workers.results(square, (common,), [7]))
    assert sorted(f[:2] for f in found) == [(i, i * i) for i in range(40)]
    assert again[0][:2] == (7, 49) and again[0][2] in {f[2] for f in found} and os.getpid() not in {f[2] for f in found}


def numbered(common, task):
    """(this worker, its number), as soon as two of them are there."""
    folder = Path(common["folder"])
    (folder / str(os.getpid())).touch()
    wait_until(lambda: len(list(folder.iterdir())) > 1)
    return os.getpid(), worker_number()


def test_workers_have_numbers_that_follow_each_other(tmp_path):
    """So each of two has a GPU of two for itself, also after both were replaced; they end with their block."""
    pids = []
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        with Workers(2) as workers:
            found = set(workers.results(numbered, ({"folder": str(folder)},), list(range(8))))
        assert len(found) == 2 and {number % 2 for _, number in found} == {0, 1}
        pids += [pid for pid, _ in found]
    assert len(set(pids)) == 6 and not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert worker_number() == 0


def test_a_worker_that_dies_is_replaced_and_its_task_done_again(tmp_path, capsys):
    with Workers(2) as workers:
        found = list(workers.results(dies_once, ({"folder": str(tmp_path)},), list(range(8))))
    assert sorted(found) == list(range(8))
    said = capsys.readouterr().out
    assert "a worker died" in said and "done again, by" in said


def test_workers_that_do_nothing_but_die_are_not_replaced_for_ever(capsys):
    with Workers(2) as workers:
        assert sorted(workers.results(dies_in_a_worker, ({"parent": os.getpid()},), [1, 2, 3])) == [1, 2, 3]
    said = capsys.readouterr().out
    assert "3 are done again, by 2 workers" in said and "3 are done again, by this process alone" in said


def test_too_little_memory_halves_the_workers(tmp_path, capsys):
    with Workers(4) as workers:
        found = list(workers.results(needs_it_all, ({"folder": str(tmp_path)},), list(range(6))))
        assert workers.jobs < 4
    assert sorted(found) == list(range(6))
    assert "found too little memory" in capsys.readouterr().out
    with Workers(2) as workers, pytest.raises(UserError,
                                              match="one task alone found too little memory; a smaller --batch"):
        list(workers.results(too_large, ({},), [1, 2]))


@pytest.mark.parametrize("end, code, words", [
    ("os._exit(1)", 2, "ended without a message (exit code 1)"),
    ("os.kill(os.getpid(), 9)", 2, "ended without a message (signal 9)"),
    ("sys.exit(130)", 130, ""), ("sys.exit(1)", 1, ""), ("raise SystemExit", 0, ""), ("os._exit(2)", 2, ""),
    ("os.kill(os.getpid(), 15)", 143, "")])
def test_whatever_ends_a_driver_of_ray_is_explained(end, code, words):
    """Ray ends it from C++, which no Python of the same process survives."""
    script = ("import os, sys\nfrom utils.common.workers import outlive_ray\noutlive_ray()\n"
              f"print('begun', flush=True)\n{end}")
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert found.returncode == code and found.stdout == "begun\n"
    assert words in found.stderr and len(found.stderr.splitlines()) == bool(words), found.stderr
    assert not words or "--resume and without --backend=ray" in found.stderr


def test_the_arrays_of_workers_leave_nothing_behind(tmp_path):
    """joblib's tracker warns at the end of a process whose workers were killed with arrays open."""
    found = subprocess.run([sys.executable, "-c", LEAVING], cwd=ROOT, capture_output=True, text=True, timeout=120,
                           env=dict(os.environ, JOBLIB_TEMP_FOLDER=str(tmp_path)))
    assert (found.returncode, found.stdout, found.stderr) == (0, "[0, 1, 4, 9]\n", "") and not list(tmp_path.iterdir())


LEAVING = """
import numpy as np
from tests.common.test_workers import keeps_it_open
from utils.common.workers import Workers
with Workers(2) as workers:
    print(sorted(workers.results(keeps_it_open, ({"numbers": np.arange(100_000)},), list(range(4)))))
"""


def keeps_it_open(common, task):
    keeps_it_open.kept = common["numbers"]
    return int(common["numbers"][task]) ** 2
