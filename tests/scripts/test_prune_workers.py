"""Workers: what joblib's processes and a real two-worker Ray cluster do, and what happens when they die."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from model.architectures import describe
from model.description import as_dict
from model.network import Group, Input, Network
from model.operators import Node, units
from tests.helpers import ROOT, environment, proportional_table, refused, run_here
from utils.common.files import write_whole
from utils.latency.table_files import write_pair
from utils.pruning import assembly

pytestmark = pytest.mark.slow  # kills, and a real Ray cluster

NETWORK = describe("res", depth=10, width=0.5)

TRAIN = ["train.py", "--depth=10", "--width=0.5", "--dataset=digits", "--epochs=1", "--save_file=net",
         "--batch_size=64", "--learning_rate=0.05", "--lr_type=cosine"]

PRUNE = ["prune.py", "--base_model=net", "--perf_table=table", "--pruning_fact=0.4", "--init_red_fact=4",
         "--criterion=error", "--short_term_fine_tune=8", "--save_file=pruned", "--batch_size=64", "--threads=1"]


# --- prune.py with workers -------------------------------------------------------------------------------------

def run(folder, *flags, **more):
    return subprocess.run([sys.executable, str(ROOT / flags[0]), *flags[1:]], cwd=folder, capture_output=True,
                          text=True, timeout=300, env=environment(**more))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with what one process found."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "perf_tables").mkdir()
    write_pair(folder / "perf_tables/table.pickle", proportional_table(NETWORK), {})
    for command in (TRAIN, PRUNE):
        found = run_here(*command, cwd=folder)
        assert found.returncode == 0, found.stderr
    return folder


@pytest.fixture
def ready(whole, tmp_path):
    for part in ("checkpoints/net.t7", "perf_tables/table.pickle", "perf_tables/table.json"):
        (tmp_path / part).parent.mkdir(exist_ok=True)
        (tmp_path / part).write_bytes((whole / part).read_bytes())
    return tmp_path


def history(folder):
    return (folder / "history/pruned.jsonl").read_text()


def trials(folder):
    """(step, rung, group, proposed width) of every trial in the unfinished journal."""
    path = folder / "history/pruned.unfinished.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    records = [json.loads(line.split("\t")[0]) for line in lines if line.endswith("\n")]
    return [(r["step"], r["rung"], r["group"], r["proposed_width"]) for r in records if r["event"] == "trial"]


def test_a_history_with_several_rungs(whole):
    records = [json.loads(line) for line in history(whole).splitlines()]
    assert {r["rung"] for r in records if r["event"] == "candidate"} == {"score", "short", "full"}
    assert max(r["step"] for r in records if r["event"] == "step") >= 3
    assert not list((whole / "checkpoints").glob("*.candidates"))


def test_two_workers_find_what_one_finds(whole, ready):
    found = run_here(*PRUNE, "--jobs=2", cwd=ready)
    assert found.returncode == 0, found.stderr
    assert history(ready) == history(whole)


def begun(folder, rung, count, *flags, **more):
    """Start pruning, wait until ``count`` trials at this rung are in the journal, and return the process."""
    process = subprocess.Popen([sys.executable, str(ROOT / PRUNE[0]), *PRUNE[1:], *flags], cwd=folder,
                               env=environment(**more),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and sum(t[1] == rung for t in trials(folder)) < count:
        time.sleep(0.005)
    assert process.poll() is None, "it ended before it could be disturbed"
    return process


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("rung, count", [("score", 2), ("short", 1)])
def test_killed_in_the_middle_of_a_round_nothing_is_tried_twice(whole, ready, jobs, rung, count):
    process = begun(ready, rung, count, f"--jobs={jobs}")
    process.kill()
    process.communicate()
    done = trials(ready)
    assert done
    found = run_here(*PRUNE, f"--jobs={jobs}", "--resume", cwd=ready)
    assert found.returncode == 0, found.stderr
    assert history(ready) == history(whole)
    in_hand = int(re.search(r"^ step (\d+), ", found.stdout, re.M)[1])  # where the resumed process went on
    first = found.stdout.split(f"\nstep {in_hand}: ")[0]
    for step, at, group, width in done:
        if step == in_hand:
            section = first.split(f" step {step}, {at}: ")[-1].split(" step ")[0]
            assert not re.search(rf"^  {group} +\d+ -> {width} ", section, re.M), f"{group} was tried again at {at}"
    assert not list((ready / "checkpoints").glob("*.candidates"))


def test_resumed_with_lost_or_broken_candidates(whole, ready):
    process = begun(ready, "short", 1)
    process.kill()
    process.communicate()
    states = sorted((ready / "checkpoints/pruned.candidates").iterdir())
    assert states
    for number, path in enumerate(states):
        path.write_bytes(path.read_bytes()[:100]) if number % 2 else path.unlink()
    assert run_here(*PRUNE, "--resume", cwd=ready).returncode == 0
    assert history(ready) == history(whole)


@pytest.mark.parametrize("rung, count", [("score", 3), ("short", 2)])
def test_resumed_after_a_power_failure_that_the_candidates_survived_but_the_journal_did_not(whole, ready, rung, count):
    process = begun(ready, rung, count)
    process.kill()
    process.communicate()
    path = ready / "history/pruned.unfinished.jsonl"
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if '"trial"' not in line))
    assert run_here(*PRUNE, "--resume", cwd=ready).returncode == 0
    assert history(ready) == history(whole)


def odd_header(records):
    return [dict(records[0], base_model={"a": 1}), *records[1:]]


def odd_step(records):
    return [records[0], dict(records[1], step="1"), *records[2:]]


def odd_error(records):
    return [records[0], dict(records[1], error_pct="low"), *records[2:]]


def odd_group(records):
    return [records[0], dict(records[1], group=["Conv_0"]), *records[2:]]


def test_an_odd_journal_is_refused_in_a_line(ready):
    process = begun(ready, "score", 1)
    process.kill()
    process.communicate()
    path = ready / "history/pruned.unfinished.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    records = [json.loads(line.split("\t")[0]) for line in lines if line.endswith("\n")]
    for damage in (odd_header, odd_step, odd_error, odd_group):
        path.write_text("".join(json.dumps(r) + "\n" for r in damage(records)))
        before = path.read_text()
        refused(run_here(*PRUNE, "--resume", cwd=ready), "history/pruned.unfinished.jsonl: ")
        assert path.read_text() == before, damage


def test_no_room_for_the_workers_arrays(ready, tmp_path):
    limit = (f"import resource, runpy, sys\nresource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
             f"sys.argv = {PRUNE + ['--jobs=2']!r}\nsys.path.insert(0, {str(ROOT)!r})\n"
             f"runpy.run_path({str(ROOT / 'prune.py')!r}, run_name='__main__')")
    found = subprocess.run([sys.executable, "-c", limit], cwd=ready, capture_output=True, text=True, env=environment())
    assert found.returncode == 2 and "JOBLIB_TEMP_FOLDER" in found.stderr, found.stderr
    assert len(found.stderr.strip().splitlines()) == 1, found.stderr


def children(pid):
    """Processes below this one that run Python code of the pool: {pid: command line}."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == pid:
                found[int(path.name)] = (path / "cmdline").read_text().replace("\0", " ")
        except (OSError, ValueError):
            continue
    return found


def workers_of(process):
    return [pid for pid, command in children(process.pid).items() if "popen_loky" in command]


def test_a_killed_worker_costs_only_what_it_had_in_hand(whole, ready):
    process = begun(ready, "score", 1, "--jobs=2")
    os.kill(workers_of(process)[0], signal.SIGKILL)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "a worker died" in output and "Traceback" not in errors
    assert history(ready) == history(whole)


def test_workers_do_not_outlive_a_killed_parent(ready):
    process = begun(ready, "score", 1, "--jobs=2")
    orphans = workers_of(process)
    assert len(orphans) == 2
    process.kill()
    process.communicate()
    until = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in orphans) and time.monotonic() < until:
        time.sleep(0.1)
    assert not [pid for pid in orphans if Path(f"/proc/{pid}").exists()]


# --- Ray -------------------------------------------------------------------------------------------------------

one_cluster = pytest.mark.xdist_group("ray")  # one after another: `ray stop` ends every cluster of the machine


@pytest.fixture
def cluster():
    """A Ray cluster of this machine with two workers; yields its address."""
    ray = Path(sys.executable).with_name("ray")
    if not ray.exists():
        pytest.skip("Ray is not installed: --backend=ray is not tested")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = subprocess.run([ray, "start", "--head", "--num-cpus=2", "--include-dashboard=false", f"--port={port}",
                            "--node-ip-address=127.0.0.1"], capture_output=True, text=True, timeout=120,
                           env=environment(RAY_USAGE_STATS_ENABLED="0"))
    assert found.returncode == 0, found.stdout + found.stderr
    try:
        yield f"127.0.0.1:{port}"
    finally:
        stop_ray()


def stop_ray():
    subprocess.run([Path(sys.executable).with_name("ray"), "stop", "--force"], capture_output=True, timeout=120)


@one_cluster
def test_a_ray_cluster_finds_what_one_process_finds_also_if_it_is_smaller_than_asked_for(whole, ready, cluster):
    found = run(ready, *PRUNE, "--backend=ray", "--jobs=5", RAY_ADDRESS=cluster)
    assert found.returncode == 0, found.stderr
    assert history(ready) == history(whole)
    assert "--jobs=5: the cluster has 2 CPUs; going on with 2 workers" in found.stdout


@one_cluster
def test_a_cluster_that_goes_is_said_and_resume_goes_on_here(whole, ready, cluster):
    process = begun(ready, "score", 1, "--backend=ray", "--jobs=2", RAY_ADDRESS=cluster)
    stop_ray()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2, errors
    said = [e for e in errors.splitlines() if e.startswith("error: --backend=ray: ")]
    assert len(said) == 1 and "what was finished is kept. To go on here, run the same command with --resume" in said[0]
    assert "Traceback" not in errors and "leaked" not in errors, errors
    found = run_here(*PRUNE, "--resume", cwd=ready)
    assert found.returncode == 0, found.stderr
    assert history(ready) == history(whole)


def test_more_jobs_than_there_is_work_for(ready, monkeypatch):
    """A step of this network has two candidates, so there are two workers."""
    groups = [Group("image", 3, prunable=False), Group("a", 8), Group("b", 8), Group("classes", 10, prunable=False)]
    nodes = [Node("A", "conv", ("image",), units("a"), kernel=3, stride=4, bn=True, activation="relu"),
             Node("B", "conv", ("A",), units("b"), kernel=3, stride=2, bn=True, activation="relu"),
             Node("P", "pool", ("B",)), Node("Y", "linear", ("P",), units("classes"))]
    network = Network({}, (Input("image", "image", 32),), tuple(groups), tuple(nodes))
    (ready / "networks").mkdir()
    write_whole(ready / "networks/two.json", json.dumps(as_dict(network, "two")))
    assert run_here("train.py", "--net=two", "--dataset=digits", "--epochs=1", "--save_file=two",
                    cwd=ready).returncode == 0
    counted = []
    real = assembly.Workers
    monkeypatch.setattr(assembly, "Workers", lambda jobs, *rest, **more: counted.append(jobs) or real(
        jobs, *rest, **more))
    flags = ["prune.py", "--base_model=two", "--perf_table=macs", "--pruning_fact=0.5", "--init_red_fact=3",
             "--criterion=error", "--short_term_fine_tune=4", "--batch_size=64", "--threads=1"]
    for name, jobs in (("one", 1), ("many", 4096)):
        found = run_here(*flags, f"--save_file={name}", f"--jobs={jobs}", cwd=ready)
        assert found.returncode == 0, found.stderr
    assert counted == [2]
    one, many = ((ready / f"history/{name}.jsonl").read_text().splitlines()[1:-1] for name in ("one", "many"))
    assert one == many and len(one) > 4


@one_cluster
def test_without_a_cluster_the_message_says_what_to_do(ready):
    pytest.importorskip("ray")
    found = run(ready, *PRUNE, "--backend=ray", "--jobs=2", RAY_ADDRESS="127.0.0.1:1")
    assert found.returncode == 2 and "no Ray cluster" in found.stderr and "ray start --head" in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1, found.stderr
    alone = run(ready, *PRUNE, "--backend=ray")
    assert alone.returncode == 2 and "--backend=ray: needs --jobs=2 or more" in alone.stderr
    assert run_here(*PRUNE, "--resume", cwd=ready).returncode == 0


def test_without_ray_the_message_says_what_to_install(ready):
    code = ("import sys, runpy\nsys.modules['ray'] = None\n"
            f"sys.argv = {PRUNE + ['--backend=ray', '--jobs=2']!r}\nsys.path.insert(0, {str(ROOT)!r})\n"
            f"runpy.run_path({str(ROOT / 'prune.py')!r}, run_name='__main__')")
    found = subprocess.run([sys.executable, "-c", code], cwd=ready, capture_output=True, text=True, env=environment())
    assert found.returncode == 2 and "Ray is not installed" in found.stderr and "pip install ray" in found.stderr
