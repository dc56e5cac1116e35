"""A worker has one run and one step open, whatever tasks it gets."""

import os

from utils.common.workers import Workers
from utils.pruning import crew


def opened_once(run, step, task):
    """(this worker, whether what it has open is the same as at its first task)"""
    first = crew._once("run", run["name"], object) is crew._once("run", run["name"], object)
    crew._once("step", step["name"], object)
    return os.getpid(), first, len(crew._shelf("run")), len(crew._shelf("step"))


def test_a_worker_has_one_run_and_one_step_open():
    with Workers(2) as workers:
        for step in range(3):
            found = list(workers.results(opened_once, ({"name": "a"}, {"name": str(step)}), list(range(6))))
            assert {f[1:] for f in found} == {(True, 1, 1)}
