"""compare.py as a user meets it: the picture of any CSV, and a comparison that is killed, resumed, widened, refused."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from model.architectures import describe
from model.torch_net import TorchNet
from tests.helpers import ROOT, TINY, contents, environment, proportional_table, records_in, refused, run_here
from utils.common.checksum import signed_json
from utils.common.errors import UserError
from utils.comparison import results
from utils.latency.note import stamped
from utils.latency.table_files import write_pair
from utils.latency.tables import latency_s
from utils.learning import checkpoint
from utils.learning.data import Normalisation

COMPARE = ["compare.py", "--save_file=c", "--base_model=base", "--perf_table=table", "--pruning_facts", "0.3",
           "--methods",
           "uniform", "netadapt --pruning_method=bn", "grid", "unpruned", "--grid_depths", "10",
           "--train_flags=--epochs=2",
           "--prune_flags=--init_red_fact=2 --short_term_fine_tune=1"]

NAMES = {f"{m}-seed{s}" for m in ("uniform-0.3", "netadapt-pruning_method-bn-0.3", "grid-res-10-0.0625-0.3",
                                  "unpruned") for s in (0, 1)}


def test_published_results_are_read_and_drawn(shared, tmp_path, script):
    (tmp_path / "published.csv").write_bytes((shared / "data/reference/pruning_methods.csv").read_bytes())
    found = results.read_csv(tmp_path / "published.csv")
    by_hand = [r for r in found if (r.method, r.criterion) == ("NetAdapt", "l2") and 0.2 < r.latency_s < 0.22]
    point = next(p for p in results.points(found) if p.label == "NetAdapt l2" and 0.2 < p.latency_s < 0.22)
    assert point.count == len(by_hand) == 3
    assert point.error_pct == pytest.approx((5.37 + 5.56 + 5.33) / 3)
    said = script("compare.py", "--plot_only=published.csv", check=True).stdout
    assert said.startswith("published.png: ") and (tmp_path / "published.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("text, words", [
    ("", "expected the columns"), ("method,measured_time\na,1\n", "expected the columns"),
    ("method,retrain_scratch,measured_time\na,x,1\n", "line 2: retrain_scratch: expected a number, found 'x'"),
    ("method,retrain_scratch,measured_time\na,NaN,1\n", "no line in it has")])
def test_a_broken_csv_is_named(tmp_path, script, text, words):
    (tmp_path / "r.csv").write_text(text)
    refused(script("compare.py", "--plot_only=r.csv"), "r.csv: ", words)
    refused(script("compare.py", "--plot_only=gone.csv"), "gone.csv: ")
    assert not (tmp_path / "r.png").exists()
    with pytest.raises(UserError):
        results.read_csv(tmp_path / "r.csv")


@pytest.mark.parametrize("note, words", [
    ({}, "says nothing of a network"), ({"network": {**TINY.arguments, "depth": None}}, "'depth': None"),
    ({"network": {**TINY.arguments, "depth": 17}}, "wide.json: --depth=17"),
    ({"network": {**TINY.arguments, "num_classes": 7}}, "'num_classes': 7")])
def test_a_table_of_another_kind_of_network_is_no_grid(priced, script, note, words):
    write_pair(priced / "perf_tables/wide.pickle", proportional_table(TINY), note)
    refused(script(*COMPARE, "--grid_perf_table=wide"), "perf_tables/wide.", words)
    refused(script(*COMPARE, "--grid_perf_table=gone"), "perf_tables/gone.pickle", "no such file")
    assert not (priced / "comparisons").exists()


def trained_epochs(folder):
    """{network: how many epochs its log says were trained}."""
    return {log.stem: len(re.findall(r"epoch \d+/2  rate", log.read_text()))
            for log in (folder / "comparisons/c/logs").iterdir()}


def rows_of(folder):
    return results.read_csv(folder / "comparisons/c/c.csv")


@pytest.mark.slow
def test_killed_and_resumed_no_network_is_trained_twice(priced):
    """Killed twice while it works, by two workers; then the whole table, and once more with nothing to do."""
    flags = [sys.executable, str(ROOT / COMPARE[0]), *COMPARE[1:], "--seeds", "0", "1", "--jobs=2", "--no_measure"]
    journal = priced / "comparisons/c/journal.jsonl"
    for finished in (1, 4):
        process = subprocess.Popen([*flags, "--resume"], cwd=priced, env=environment(), stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL, start_new_session=True)
        while process.poll() is None and not (journal.exists() and len(journal.read_text().splitlines()) > finished):
            time.sleep(0.01)
        assert process.poll() is None
        process.kill()
        process.wait()
        wait_for_the_workers_end(process.pid)
    flags = [COMPARE[0], *flags[2:]]
    refused(run_here(*flags, cwd=priced), "journal.jsonl", "add --resume")
    done = run_here(*flags, "--resume", cwd=priced)
    assert done.returncode == 0, done.stderr
    assert {r.file_name for r in rows_of(priced)} == NAMES
    epochs = trained_epochs(priced)
    assert set(epochs) == NAMES and max(epochs.values()) <= 2  # saved, then said: a kill in between leaves one unsaid
    assert {checkpoint.load(priced / f"comparisons/c/checkpoints/{name}.t7")["epoch"] for name in NAMES} == {2}
    order = [record["file_name"] for record in records_in(journal)[1:]]
    assert len(order) == len(set(order)) == len(NAMES)
    for row in rows_of(priced):
        assert row.parameters > 0 and row.macs > 0 and 0 <= row.retrain_scratch <= 100
        assert math.isnan(row.no_fine_tune) == (row.method in ("grid", "unpruned"))
        full = latency_s(TINY, TINY.full_widths, proportional_table(TINY))
        assert row.table_time == pytest.approx(full) if row.method == "unpruned" else row.table_time <= 0.7 * full
    before = trained_epochs(priced)
    again = run_here(*flags, "--resume", cwd=priced)
    assert "8 networks, 0 to be made" in again.stdout and trained_epochs(priced) == before
    csv = (priced / "comparisons/c/c.csv").read_bytes()
    for lost in ("c.csv", "c.png"):  # a kill may come between a network's line in the journal and these
        (priced / "comparisons/c" / lost).unlink()
    assert run_here(*flags, "--resume", cwd=priced).returncode == 0
    assert (priced / "comparisons/c/c.csv").read_bytes() == csv
    assert (priced / "comparisons/c/c.png").read_bytes()[:4] == b"\x89PNG"


def wait_for_the_workers_end(session):
    """Workers end by themselves when their parent is killed."""
    for _ in range(3000):  # of 20 ms
        if not any(session_of(p) == session for p in os.listdir("/proc") if p.isdigit()):
            return
        time.sleep(0.02)
    os.killpg(session, signal.SIGKILL)
    raise AssertionError("workers outlived their parent by a minute")


def session_of(pid):
    try:
        return os.getsid(int(pid))
    except (OSError, ProcessLookupError):
        return None


@pytest.mark.slow
def test_networks_are_exported_and_measured_and_the_table_says_so(priced, script):
    said = script("compare.py", "--save_file=c", "--base_model=base", "--perf_table=table", "--pruning_facts", "0.3",
                  "--methods",
                  "uniform", "unpruned", "--seeds", "0", "--train_flags=--epochs=1", "--jobs=2", check=True).stdout
    for row in rows_of(priced):
        exported = priced / f"comparisons/c/exported/{row.file_name}.tflite"
        assert row.file_bytes == exported.stat().st_size and 0 < row.measured_time < 1
        (line,) = [line for line in said.splitlines() if line.startswith(f"{row.method} ")]
        error_pct, _, measured_ms = map(float, line.split()[1:4])  # rounded, as the CSV's figures are
        assert measured_ms == pytest.approx(row.measured_time * 1e3, abs=1e-4)
        assert error_pct == pytest.approx(row.retrain_scratch, abs=0.01)
        timed = script("compute_table.py", "--mode=measure", f"--model={exported}", "--json", check=True)
        ratio = json.loads(timed.stdout)["measured_s"] / row.measured_time
        assert 0.2 < ratio < 5  # the same thing, on a noisy machine


@pytest.mark.slow
def test_the_latencies_of_a_device_take_the_place_of_this_machines(priced, script):
    flags = ["compare.py", "--save_file=c", "--base_model=base", "--perf_table=table", "--pruning_facts", "0.3",
             "--methods",
             "uniform", "unpruned", "--seeds", "0", "--train_flags=--epochs=1", "--jobs=2"]
    write_pair(priced / "perf_tables/table.pickle", proportional_table(TINY), {"device": {"model": "Raspberry Pi 3"}})
    first = script(*flags, check=True)
    assert "though the table is of another" in first.stderr
    assert "table.pickle: measured with device Raspberry Pi 3, judged with" in first.stderr
    models = sorted(str(p) for p in (priced / "comparisons/c/exported").iterdir())
    timed = json.loads(script("compute_table.py", "--mode=measure", "--model", *models, "--json", check=True).stdout)
    assert set(timed["models"]) == set(models) and all(0 < m["measured_s"] < 1 for m in timed["models"].values())
    uniform, unpruned = "exported/uniform-0.3-seed0.tflite", "exported/unpruned-seed0.tflite"  # as a device may say
    device, file = {"device": {"model": "Raspberry Pi 3"}}, priced / "comparisons/c/measured.json"
    before = (priced / "comparisons/c/c.csv").read_bytes()
    for broken in ("", "[]", json.dumps({**device, "models": {uniform: {"measured_s": -1}}}), "[" * 100_000):
        file.write_text(broken)
        refused(script(*flags, "--resume"), "comparisons/c/measured.json", "expected what `compute_table.py",
                "or remove it")
    assert (priced / "comparisons/c/c.csv").read_bytes() == before
    file.write_text(json.dumps({**device, "models": {uniform: {"measured_s": 0.25}, unpruned: {"measured_s": 0.5}}}))
    done = script(*flags, "--resume", check=True)
    assert "2 networks, 0 to be made" in done.stdout and "latencies measured on Raspberry Pi 3\n" in done.stdout
    assert {r.method: r.measured_time for r in rows_of(priced)} == {"uniform": 0.25, "unpruned": 0.5}
    assert all(r.file_bytes > 0 for r in rows_of(priced))
    assert "table.pickle: measured with" not in done.stderr
    content = {"device": {"model": "Raspberry Pi 4"}, "threads": 4, "models": {uniform: {"measured_s": 0.25}}}
    file.write_text(signed_json(content))
    assert ("table.pickle: measured with device Raspberry Pi 3, comparisons/c/measured.json: networks measured with "
            "Raspberry Pi 4\n") in script(*flags, "--resume", check=True).stderr
    file.write_text(signed_json(content).replace("0.25", "0.35"))
    refused(script(*flags, "--resume"), "comparisons/c/measured.json: damaged or edited", 'or delete its "sha256"')
    file.write_text(json.dumps({**device, "model": uniform, "measured_s": 0.125}))  # one model alone
    done = script(*flags, "--resume", check=True)
    assert "1 of 2 networks, unpruned-seed0 for one, are not in it: only predicted" in done.stdout
    found = {r.method: r.measured_time for r in rows_of(priced)}
    assert found["uniform"] == 0.125 and math.isnan(found["unpruned"])


@pytest.mark.slow
def test_what_was_begun_in_another_way_is_not_mixed_up_nor_lost(priced, script):
    flags = ["compare.py", "--save_file=c", "--base_model=base", "--perf_table=table", "--pruning_facts", "0.3",
             "--methods",
             "uniform", "--seeds", "0", "--no_measure"]
    process = subprocess.Popen([sys.executable, str(ROOT / flags[0]), *flags[1:], "--train_flags=--epochs=10000"],
                               cwd=priced,
                               env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               start_new_session=True)
    made = priced / "comparisons/c/checkpoints/uniform-0.3-seed0.t7"
    begun = made.with_suffix(".unfinished.t7")
    while process.poll() is None and not begun.exists():
        time.sleep(0.01)
    assert process.poll() is None
    process.kill()
    process.wait()
    wait_for_the_workers_end(process.pid)
    before = {k: v for k, v in contents(priced).items() if "lock" not in k}
    refused(script(*flags, "--train_flags=--epochs=1", "--resume"), "train_flags",
            "or remove comparisons/c: no network in it is finished")
    assert {k: v for k, v in contents(priced).items() if "lock" not in k} == before
    begun.unlink()
    (priced / "comparisons/c/history").mkdir(exist_ok=True)
    (priced / "comparisons/c/history/x.unfinished.jsonl").touch()  # a search in its first step has no checkpoint yet
    refused(script(*flags, "--train_flags=--epochs=1", "--resume"), "train_flags",
            "or remove comparisons/c: no network in it is finished")
    shutil.rmtree(priced / "comparisons/c")
    script(*flags, "--train_flags=--epochs=1", check=True)
    assert torch.load(made, weights_only=True)["epoch"] == 1 and len(rows_of(priced)) == 1


def test_what_was_wrong_at_first_can_be_put_right(priced, script):
    flags = ["compare.py", "--save_file=c", "--base_model=base", "--perf_table=table", "--pruning_facts", "0.3",
             "--methods",
             "unpruned", "--seeds", "0", "--train_flags=--epochs=1", "--no_measure"]
    refused(script(*flags, "--dataset=cifar10", "--data_loc=/dev/null/x"), "1 of 1 networks could not be made",
            "/dev/null/x")
    script(*flags, check=True)
    assert len(rows_of(priced)) == 1
    refused(script(*flags), "journal.jsonl", "add --resume")


def test_a_network_that_cannot_be_made_is_said_and_the_others_are_kept(priced, script):
    found = script("compare.py", "--save_file=c", "--base_model=base", "--perf_table=table", "--pruning_facts", "0.3",
                   "0.999",
                   "--methods", "uniform", "--seeds", "0", "--train_flags=--epochs=1", "--no_measure")
    refused(found, "1 of 2 networks could not be made", "logs/uniform-0.999-seed0.log", "lower --pruning_fact")
    assert [r.file_name for r in rows_of(priced)] == ["uniform-0.3-seed0"]


@pytest.mark.parametrize("flags, words", [
    (["--methods", "best"], "--methods: expected trade, netadapt"), (["--methods", "netadapt 'x"], "--methods"),
    (["--methods", "grid --reach=2"], "grid is only trained"),
    (["--methods", "uniform --seed=3"], "--seed=3 is for the comparison"),
    (["--methods", "uniform --epochs=3"], "--methods: unrecognized arguments: --epochs=3"),
    (["--train_flags=--epoch=1"], "--train_flags: unrecognized arguments: --epoch=1"),
    (["--train_flags=--epochs=1 --threads=2"], "--threads=2 is for the comparison"),
    (["--train_flags=-d 16"], "--train_flags: -d is for the comparison"),
    (["--prune_flags=--wd=0.01 -w0.5"], "--prune_flags: -w0.5 is for the comparison"),
    (["--prune_flags=--pruning_fact=0.9"], "--pruning_fact=0.9 is for the comparison"),
    (["--methods", "grid", "--grid_depths", "40"], "nothing to make"),
    (["--methods", "grid", "--grid_depths", "11"], "--grid_depths: --depth=11"),
    (["--base_model=gone"], "gone.t7"),
    (["--train_flags=--epochs=1 --teacher=gone"], "gone.t7"),
    (["--train_flags=--epochs=1 --teacher=seven"], "seven.t7: a teacher of num_classes 7, expected 10"),
    (["--train_flags=--epochs=1 --device=nowhere"], "--train_flags: --device=nowhere: torch cannot use it here")])
def test_wrong_flags_are_found_before_anything_is_made(priced, script, flags, words):
    seven = describe("res", depth=10, width=0.0625, num_classes=7)
    base = torch.load(priced / "checkpoints/base.t7", weights_only=True)
    more = {k: base[k] for k in ("epoch", "error_history", "flags", "holdout_prop")}
    checkpoint.save(priced / "checkpoints/seven.t7", TorchNet(seven, seven.full_widths),
                    Normalisation(**base["normalisation"]), **more)
    before = contents(priced)
    refused(script(*COMPARE[:-2], "--seeds", "0", "--no_measure", *flags), words)
    after = {k: v for k, v in contents(priced).items() if "lock" not in k}
    assert after == before


@pytest.mark.slow
def test_more_methods_later_and_measured_later(priced, script):
    """What is there stays, in the picture too; only what is missing is made; a figure is never lost."""
    flags = ["compare.py", "--save_file=c", "--base_model=base", "--perf_table=table", "--pruning_facts", "0.3",
             "--seeds", "0",
             "--train_flags=--epochs=2"]
    script(*flags, "--methods", "uniform", "--no_measure", check=True)
    script(*flags, "--methods", "unpruned", "--resume", check=True)
    assert {r.method: math.isnan(r.measured_time) for r in rows_of(priced)} == {"uniform": True, "unpruned": False}
    said = script(*flags, "--methods", "uniform", "--resume", check=True).stdout  # only its export is missing
    assert "1 networks, 1 to be made" in said and set(trained_epochs(priced).values()) == {2}
    measured = {r.method: r.measured_time for r in rows_of(priced)}
    assert all(s > 0 for s in measured.values())
    script(*flags, "--methods", "random", "--no_measure", "--resume", check=True)
    assert {r.method: r.measured_time for r in rows_of(priced) if r.method != "random"} == measured


def test_the_grid_with_a_wider_table_and_a_network_of_it_for_two_latencies(priced, script):
    wider = describe("res", depth=10, width=0.25)
    write_pair(priced / "perf_tables/wide.pickle", proportional_table(wider), {"network": wider.arguments})
    flags = ["compare.py", "--save_file=c", "--base_model=base", "--perf_table=table", "--methods", "grid",
             "--grid_depths", "10",
             "--seeds", "0", "--train_flags=--epochs=1", "--no_measure", "--grid_perf_table=wide"]
    script(*flags, "--pruning_facts", "0.1", check=True)
    (row,) = rows_of(priced)
    network = describe("res", depth=10, width=float(row.network.split("-")[2]))
    assert row.table_time == pytest.approx(latency_s(network, network.full_widths, proportional_table(wider)), rel=1e-5)
    assert "1 networks, 0 to be made" in script(*flags, "--pruning_facts", "0.101", "--resume", check=True).stdout
    refused(script(*flags[:-1], "--pruning_facts", "0.1", "--resume"), "grid_table_sha256")


def test_a_table_whose_cache_holds_more_is_another_table(priced, script):
    """The entries and what a weight costs stay; nothing but the latency of large networks changes."""
    flags = ["compare.py", "--save_file=c", "--base_model=base", "--perf_table=table", "--pruning_facts", "0.3",
             "--methods", "uniform", "--seeds", "0", "--train_flags=--epochs=1", "--no_measure"]
    for cached in (100.0, 200.0):
        about = {"factor": 1.0, "overhead_s": 0.0, "weight_s": 1e-9, "cached_weights": cached}
        write_pair(priced / "perf_tables/table.pickle", proportional_table(TINY), stamped({"correction": about}))
        if cached == 100.0:
            script(*flags, check=True)
    refused(script(*flags, "--resume"), "perf_table_sha256")


@pytest.mark.slow
def test_the_number_of_jobs_makes_no_difference(priced, script):
    flags = ["compare.py", "--base_model=base", "--perf_table=table", "--pruning_facts", "0.3", "--methods", "uniform",
             "unpruned", "--seeds", "0", "--train_flags=--epochs=1", "--no_measure", "--threads=1"]
    for jobs in ("1", "2"):
        script(*flags, f"--save_file=c{jobs}", f"--jobs={jobs}", check=True)
    one, two = ((priced / f"comparisons/c{jobs}/c{jobs}.csv").read_text() for jobs in "12")
    assert one == two
    for name in ("uniform-0.3-seed0", "unpruned-seed0"):
        weights = [torch.load(priced / f"comparisons/c{jobs}/checkpoints/{name}.t7", weights_only=True)["state_dict"]
                   for jobs in "12"]
        assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])


def test_two_comparisons_are_not_mixed(priced, script):
    flags = ["compare.py", "--save_file=c", "--base_model=base", "--perf_table=table", "--methods", "unpruned",
             "--seeds", "0",
             "--no_measure", "--resume"]
    script(*flags, "--train_flags=--epochs=1", check=True)
    script("compare.py", "--save_file=d", *flags[2:], "--train_flags=--epochs=1 --teacher=base", check=True)
    before = contents(priced)
    refused(script(*flags, "--train_flags=--epochs=2"), "journal.jsonl", "train_flags")
    refused(script(*flags, "--train_flags=--epochs=1", "--dataset=cifar10"), "journal.jsonl", "dataset")
    other = (priced / "comparisons/c/checkpoints/unpruned-seed0.t7").read_bytes()
    base = (priced / "checkpoints/base.t7")
    kept = base.read_bytes()
    base.write_bytes(other)
    refused(script(*flags, "--train_flags=--epochs=1"), "base_weights_sha256")
    base.write_bytes(kept)
    table = proportional_table(TINY)
    write_pair(priced / "perf_tables/table.pickle", {k: v * 2 for k, v in table.items()}, {})
    refused(script(*flags, "--train_flags=--epochs=1"), "perf_table")
    assert {k: v for k, v in contents(priced).items() if "perf_tables" not in k} == \
        {k: v for k, v in before.items() if "perf_tables" not in k}
