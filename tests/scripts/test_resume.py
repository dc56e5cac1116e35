"""Law 4: killed with SIGKILL at random moments and resumed, every script ends like an uninterrupted run."""

import collections
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from model.architectures import describe
from tests.helpers import ROOT, arithmetic_table, environment, run_here, saved_anew
from utils.common.pickles import read_pickle
from utils.latency.table_files import write_pair

pytestmark = pytest.mark.slow  # kills

TRAIN = ["train.py", "--depth=10", "--width=0.125", "--dataset=digits", "--epochs=4", "--save_file=net",
         "--lr_type=cosine", "--learning_rate=0.05"]

PRUNE = ["prune.py", "--base_model=net", "--perf_table=table", "--pruning_fact=0.5", "--init_red_fact=3",
         "--short_term_fine_tune=2", "--save_file=pruned", "--batch_size=64"]


def command(name, *flags):
    return [sys.executable, str(ROOT / name), *flags]


def finish(folder, name, *flags):
    found = run_here(name, *flags, cwd=folder)
    assert found.returncode == 0, found.stderr
    return found.stdout


def kill_and_resume(folder, moments, count, watched, units, name, *flags):
    """Start with --resume and kill ``count`` times, each at a random moment after the file ``watched`` changed 1 to
    ``units`` times (so that a slow or fast machine makes no difference), then let it end; returns the kills at work."""
    def state():
        return (watched.stat().st_mtime_ns, watched.stat().st_size) if watched.exists() else None

    alive = 0
    for _ in range(count):
        process = subprocess.Popen(command(name, *flags, "--resume"), cwd=folder, env=environment(),
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        last, changes, wanted = state(), 0, moments.randint(1, units)
        while process.poll() is None and changes < wanted:
            time.sleep(0.005)
            changes, last = changes + (state() != last), state()
        time.sleep(moments.uniform(0, 0.1))
        alive += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    finish(folder, name, *flags, "--resume")
    return alive


def leftovers(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.name.endswith((".tmp",))
                  or "unfinished" in p.name
                  or ".candidates" in str(p))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    finish(folder, *TRAIN)
    return folder


@pytest.fixture(scope="module")
def pruned(trained):
    folder = trained
    (folder / "perf_tables").mkdir()
    write_pair(folder / "perf_tables/table.pickle", arithmetic_table(describe("res", depth=10, width=0.125)), {})
    finish(folder, *PRUNE)
    return folder


def same_checkpoints(a, b):
    one, two = (torch.load(p, weights_only=True) for p in (a, b))
    assert one.keys() == two.keys()
    assert one["state_dict"].keys() == two["state_dict"].keys()
    for name, value in one["state_dict"].items():
        assert torch.equal(value, two["state_dict"][name]), name
    for key in set(one) - {"state_dict", "flags", "sha256"}:
        assert one[key] == two[key], key


def test_train(trained, tmp_path):
    whole = trained
    moments = random.Random(1)
    alive = kill_and_resume(tmp_path, moments, 3, tmp_path / "checkpoints/net.unfinished.t7", 2, *TRAIN)
    assert alive, "never killed at work"
    same_checkpoints(whole / "checkpoints/net.t7", tmp_path / "checkpoints/net.t7")
    assert leftovers(tmp_path) == []


def test_prune(pruned, tmp_path):
    whole = pruned
    for part in ("checkpoints/net.t7", "perf_tables/table.pickle", "perf_tables/table.json"):
        (tmp_path / part).parent.mkdir(exist_ok=True)
        (tmp_path / part).write_bytes((whole / part).read_bytes())
    moments = random.Random(2)
    alive = kill_and_resume(tmp_path, moments, 5, tmp_path / "history/pruned.unfinished.jsonl", 5, *PRUNE)
    assert alive, "never killed at work"
    same_checkpoints(whole / "checkpoints/pruned.t7", tmp_path / "checkpoints/pruned.t7")
    assert (tmp_path / "history/pruned.jsonl").read_bytes() == (whole / "history/pruned.jsonl").read_bytes()
    assert (tmp_path / "history/pruned.png").read_bytes() == (whole / "history/pruned.png").read_bytes()
    assert read_pickle(tmp_path / "nbr_channels/pruned.pickle") == read_pickle(whole / "nbr_channels/pruned.pickle")
    assert leftovers(tmp_path) == []


def test_prune_goes_on_from_any_line_of_its_journal(pruned, tmp_path):
    """Whatever the journal and the files say of each other after a kill, in memory of no process."""
    from utils.common import journal
    from utils.pruning import run_files
    whole = pruned
    lines = (whole / "history/pruned.jsonl").read_text().splitlines(keepends=True)
    events = [json.loads(line)["event"] for line in lines]
    assert events[0] == "start" and events[-1] == "end" and events.count("step") >= 2
    for folder in ("history", "checkpoints"):
        (tmp_path / folder).mkdir()
    files = run_files.RunFiles(*(tmp_path / p for p in (
        "checkpoints/p.t7", "p.pickle", "history/p.jsonl", "p.png", "history/p.u.jsonl", "checkpoints/p.u.t7",
        "checkpoints/p.candidates")))
    content = torch.load(whole / "checkpoints/pruned.t7", weights_only=True)
    trial = lambda line: dict(json.loads(line), event="trial") if '"candidate"' in line else json.loads(line)
    records = [trial(line) for line in lines]
    records[-1].pop("sha256")
    lines = [journal.line(record) for record in records]  # as they stood in the journal
    for cut in range(1, len(lines) + 1):
        for steps_on_disk in range(events[:cut].count("step") + 1):
            files.journal.write_text("".join(lines[:cut]) + '{"event": "cand')
            files.current.unlink(missing_ok=True)
            if steps_on_disk:
                saved_anew(files.current, dict(content, prune_history=content["prune_history"][:steps_on_disk]))
            found, done = run_files.begin_or_go_on(files, records[0], going_on=True)
            assert (len(found["prune_history"]) if found else 0) == steps_on_disk
            assert [r["step"] for r in done] == [steps_on_disk + 1] * len(done)
            _, kept = journal.read(files.journal)
            expected = [r for r in records[1:cut] if r["event"] != "end" and (
                r["step"] <= steps_on_disk or r["event"] == "trial" and r["step"] == steps_on_disk + 1)]
            assert kept == expected


def test_compute_table_save(tmp_path):
    flags = ["compute_table.py", "--depth=10", "--width=0.25", "--mode=save", "--save_file=x", "--output_folder=f"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir(), broken.mkdir()
    finish(whole, *flags)
    for count in (20, 80, 160):
        process = subprocess.Popen(command(*flags), cwd=broken, env=environment(), stdout=subprocess.DEVNULL)
        while process.poll() is None and len(list((broken / "f").rglob("*.tflite"))) < count:
            time.sleep(0.005)
        assert process.poll() is None, "it ended before it could be killed"
        process.kill()
        process.wait()
    torn = sorted((broken / "f").rglob("*.tflite"))[3]
    torn.write_bytes(torn.read_bytes()[:100])
    finish(broken, *flags, "--jobs=2")
    contents = [{str(p.relative_to(f)): p.read_bytes() for p in f.rglob("*") if p.is_file()} for f in (whole, broken)]
    for files in contents:  # two processes end in any order
        files.update({name: sorted(raw.split(b"\n")) for name, raw in files.items() if name.endswith(".journal")})
    assert contents[0] == contents[1] and len(contents[0]) > 700
    assert " 0 files written" in finish(broken, *flags)


@pytest.fixture
def slow_tool(tmp_path):
    """A benchmark binary whose answer depends on the file alone, and that counts how often each file is asked for."""
    path = tmp_path / "benchmark_model"
    path.write_text(f"""#!/bin/sh
for flag; do case $flag in --graph=*) graph=${{flag#--graph=}};; esac; done
echo "$graph" >> {tmp_path}/asked
us=$(wc -c < "$graph")
echo "count=1 curr=1"
echo "count=11 first=1 avg=$us"
echo "Average inference timings in us: Warmup: 1, Init: 1, no stats: $us"
""")
    path.chmod(0o755)
    return path


def test_compute_table_load(tmp_path, slow_tool):
    flags = ["compute_table.py", "--depth=10", "--width=0.0625", "--output_folder=f",
             f"--benchmark_lite_loc={slow_tool}",
             "--calibrate=0"]
    finish(tmp_path, *flags, "--mode=save", "--save_file=x")
    finish(tmp_path, *flags, "--mode=load", "--save_file=whole")

    def asked():
        """How often each file was timed, but for the probe, which is asked for at any time."""
        times = collections.Counter(Path(line).name for line in (tmp_path / "asked").read_text().splitlines())
        probe = max(times, key=times.get)
        times.pop(probe)
        (tmp_path / "asked").unlink()
        return times
    whole = asked()
    assert set(whole.values()) == {2}  # two passes
    moments = random.Random(3)
    alive = kill_and_resume(tmp_path, moments, 4, tmp_path / "perf_tables/broken.journal", 20, *flags,
                            "--mode=load", "--save_file=broken")
    assert alive, "never killed at work"
    tables = [read_pickle(tmp_path / f"perf_tables/{n}.pickle") for n in ("whole", "broken")]
    assert tables[0].keys() == tables[1].keys() and all((tables[0][k] == tables[1][k]).all() for k in tables[0])
    broken = asked()
    assert broken.keys() == whole.keys() and sum((broken - whole).values()) <= alive, "measured twice"
    assert leftovers(tmp_path) == []


def test_compute_table_build(tmp_path):
    """With real timings: no visit is lost and none is made twice but the one in hand."""
    flags = ["compute_table.py", "--depth=10", "--width=0.25", "--mode=build", "--save_file=built"]
    log = tmp_path / "perf_tables/built.journal"
    seen, process = [], None
    for kill in (True, True, True, False):
        process = subprocess.Popen(command(*flags, "--resume"), cwd=tmp_path, env=environment(),
                                   stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        wanted = log.stat().st_size + 8000 if log.exists() else 8000
        while kill and process.poll() is None and (not log.exists() or log.stat().st_size < wanted):
            time.sleep(0.002)
        if kill:
            assert process.poll() is None, "never killed at work"
            process.kill()
        process.wait()
        text = log.read_text()
        if kill:
            log.write_text(text[:text.rindex("\n") + 1] + '["No_Stride_1", 2, ')  # torn, as by a power failure
            whole = text[:text.rindex("\n") + 1]
        else:
            whole = text
        assert whole.startswith("".join(seen[-1:])), "a line of the journal was lost"
        seen.append(whole)
    assert process.returncode == 0
    network = describe("res", depth=10, width=0.25)
    records = [json.loads(line.split("\t")[0]) for line in seen[-1].splitlines()[1:]]
    visits = collections.Counter(tuple(r[:3]) for r in records if isinstance(r, list) and r[0] != "network")
    expected = sum(t.rows * t.columns for t in network.tables.values())
    assert len(visits) == expected and min(visits.values()) >= 2 and max(visits.values()) <= 5
    note = json.loads((tmp_path / "perf_tables/built.json").read_text())
    assert note["visits"] == sum(isinstance(r, list) for r in records) and note["visits_from_before_a_resume"] > 0
    first = list(dict.fromkeys(tuple(r[:3]) for r in records if isinstance(r, list)))
    assert len(first) == expected + 90  # the first pass ends before the second: nothing is visited twice in it
    assert [tuple(r[:3]) for r in records if isinstance(r, list)][:len(first)] == first
    table = read_pickle(tmp_path / "perf_tables/built.pickle")
    assert all((table[k] > 0).all() and table[k].shape == t.shape for k, t in network.tables.items())
    assert leftovers(tmp_path) == []
