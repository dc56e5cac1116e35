"""The scripts as a user meets them: what they print, what they write, and what they say of bad input."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from model.architectures import describe
from tests.helpers import PRUNE, ROOT, TINY, TRAIN, Touch, arithmetic_table, contents, environment, refused, saved_anew
from utils.common.pickles import read_pickle
from utils.latency import variants
from utils.latency.table_files import write_pair
from utils.latency.tables import latency_s

# --- what a pruning run leaves ---------------------------------------------------------------------------------

def test_prune_writes_what_it_says(ready, script):
    found = script(*PRUNE, "--init_red_fact=8", check=True)
    network, table = TINY, arithmetic_table(TINY)
    pruned = torch.load(ready / "checkpoints/pruned.t7", weights_only=True)
    costs = pruned["table_costs_history"]
    assert costs[0] == latency_s(network, network.full_widths, table)
    assert costs[-1] == latency_s(network, pruned["widths"], table) <= 0.7 * costs[0] < costs[-2]
    assert len(pruned["prune_history"]) + 1 == len(costs) == len(pruned["error_history"])
    assert {k: tuple(v.shape) for k, v in pruned["state_dict"].items() if "num_batches" not in k} == \
        network.weight_shapes(pruned["widths"])
    channels = read_pickle(ready / "nbr_channels/pruned.pickle")
    assert channels == network.conv_channels(pruned["widths"]) and type(channels) is dict

    records = [json.loads(line) for line in (ready / "history/pruned.jsonl").read_text().splitlines()]
    assert [r["event"] for r in records][0::len(records) - 1] == ["start", "end"]
    steps = [r for r in records if r["event"] == "step"]
    for step in steps:
        tried = [r for r in records if r["event"] == "candidate" and r["step"] == step["step"]]
        rivals = [r for r in tried if r["rung"] == "full"]
        best = min(rivals, key=lambda r: r["growth_pct"] / min(r["gain_s"], r["missing_s"]))
        assert (step["group"], step["error_pct"]) == (best["group"], best["error_pct"])
        assert {r["missing_s"] for r in tried} == {costs[step["step"] - 1] - 0.7 * costs[0]}
        assert all(r["gain_s"] > step["target_gain_s"] for r in tried) and len(rivals) == min(len(tried), 2)
        assert [r["group"] for r in tried if r["stopped"] == "chosen"] == [step["group"]]
        assert all(r["stopped"] and r["errors_pct"][r["rung"]] == r["error_pct"] for r in tried)
    assert {r["rung"] for r in records if r["event"] == "candidate"} == {"score", "full"}
    assert pruned["classes"] == list("0123456789")
    assert (ready / "history/pruned.png").read_bytes()[:4] == b"\x89PNG"
    for text in ("predicted latency, ms", "held-out error, %", "test error, %", "A Board 3"):
        assert text in found.stdout


def test_the_same_seed_gives_the_same_history(ready, script):
    script(*PRUNE, check=True)
    first = (ready / "history/pruned.jsonl").read_bytes()
    script(*PRUNE, check=True)
    assert (ready / "history/pruned.jsonl").read_bytes() == first
    assert "finished already" in script(*PRUNE, "--resume", check=True).stdout


def test_finished_is_only_what_was_pruned_by_this_table_and_from_this_network(ready, script):
    script(*PRUNE, check=True)
    before = contents(ready)
    write_pair(ready / "perf_tables/table.pickle", {k: 2 * v for k, v in arithmetic_table(TINY).items()}, {})
    refused(script(*PRUNE, "--resume"), "history/pruned.jsonl", "table_sha256", "leave out --resume to replace it")
    write_pair(ready / "perf_tables/table.pickle", arithmetic_table(TINY), {"other": "note"})
    assert "finished already" in script(*PRUNE, "--resume", check=True).stdout
    base = torch.load(ready / "checkpoints/base.t7", weights_only=True)
    base["state_dict"]["FC.bias"] += 1
    saved_anew(ready / "checkpoints/base.t7", base)
    refused(script(*PRUNE, "--resume"), "history/pruned.jsonl", "base_weights_sha256")
    other = ("perf_tables", "base.t7")
    assert {k: v for k, v in contents(ready).items() if not any(o in k for o in other)} == \
        {k: v for k, v in before.items() if not any(o in k for o in other)}


def test_a_pruned_network_can_be_pruned_again(ready, script):
    script(*PRUNE, check=True)
    script("prune.py", "--base_model=pruned", "--perf_table=table", "--save_file=twice", "--pruning_fact=0.2",
           "--init_red_fact=1", "--short_term_fine_tune=1", check=True)
    costs = [torch.load(ready / f"checkpoints/{n}.t7", weights_only=True)["table_costs_history"]
             for n in ("pruned", "twice")]
    assert costs[1][0] == costs[0][-1] and costs[1][-1] <= 0.8 * costs[1][0]


def test_the_criterion_of_the_loss(ready, script):
    script(*PRUNE, "--criterion=loss", "--search=full", "--init_red_fact=4", check=True)
    records = [json.loads(line) for line in (ready / "history/pruned.jsonl").read_text().splitlines()]
    for step in [r for r in records if r["event"] == "step"]:
        tried = [r for r in records if r["event"] == "candidate" and r["step"] == step["step"]]
        assert step["group"] == min(tried, key=lambda r: r["loss_growth"] / min(r["gain_s"], r["missing_s"]))["group"]
        assert len({r["loss"] for r in tried}) == len(tried) and all(0 < r["loss"] < 100 for r in tried)
        assert len({round(r["loss"] - r["loss_growth"], 9) for r in tried}) == 1  # all grow from the parent's


def test_other_fine_tuning_and_criterion(ready, script):
    script(*PRUNE, "--criterion=error", "--long_term_fine_tune=2", "--allow_small_prunings", check=True)
    records = [json.loads(line) for line in (ready / "history/pruned.jsonl").read_text().splitlines()]
    for step in [r for r in records if r["event"] == "step"]:
        rivals = [r["error_pct"] for r in records if r["event"] == "candidate" and r["step"] == step["step"]
                  and r["rung"] == "full"]
        assert step["error_pct"] == min(rivals)


def test_a_candidate_whose_loss_is_nan_loses(ready, script):
    found = script(*PRUNE, "--learning_rate=1e6", "--short_term_fine_tune=9")
    refused(found, "step 1: the loss of every candidate became NaN; lower --learning_rate")
    assert "NaN, out of this step" in found.stdout
    assert not (ready / "checkpoints/pruned.t7").exists()
    script(*PRUNE, check=True)  # nothing is left in the way of another try


# --- plan ------------------------------------------------------------------------------------------------------

def test_plan_on_the_raspberry_pi_table(shared, script, tmp_path):
    table = shared / "data/reference/res-40-2-tf-lite-raspberry-pi.pickle"
    found = script("prune.py", "--plan", "--json", "--pruning_fact=0.4", f"--perf_table={table}", check=True)
    plan = json.loads(found.stdout)
    assert plan["total_latency_s"] == pytest.approx(0.3530, abs=5e-5)
    assert plan["target_gain_s"] == pytest.approx(0.4 * plan["total_latency_s"] / 20)
    proposals = {p["group"]: p for p in plan["proposals"]}
    assert len(proposals) == 22 and proposals["Conv_0"] == {"group": "Conv_0", "width": 16, "proposed_width": None,
                                                           "gain_s": None}
    arrays = read_pickle(table)
    inner = proposals["Conv_1_1_1"]  # its gain, from the table by hand
    gain = lambda w: (2 * arrays["No_Stride_1"][31, 31] - arrays["No_Stride_1"][31, w - 1]
                      - arrays["No_Stride_1"][w - 1, 31])
    assert inner["gain_s"] == pytest.approx(gain(inner["proposed_width"])) and inner["gain_s"] > plan["target_gain_s"]
    assert all(gain(w) <= plan["target_gain_s"] for w in range(inner["proposed_width"] + 1, 32))
    found = script("prune.py", "--plan", "--json", "--pruning_fact=0.4", f"--perf_table={table}", "--removals=always",
                   check=True)
    without = {p["group"]: p.get("removal_gain_s") for p in json.loads(found.stdout)["proposals"]}
    assert without["Conv_1_1_1"] == pytest.approx(2 * arrays["No_Stride_1"][31, 31]) and without["Conv_0"] is None
    text = script("prune.py", "--plan", "--pruning_fact=0.4", f"--perf_table={table}", check=True).stdout
    assert "total latency 352.986" in text and "Conv_3_5_1" in text and "Join_1" in text
    assert list(tmp_path.iterdir()) == []


# --- bad input -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("flags, words", [
    (["--depth=11"], "6n + 4"), (["--width=0.3"], "whole number of channels"), (["--epochs=0"], "--epochs"),
    (["--epoch_step=[60,"], "--epoch_step"), (["--holdout_prop=1"], "--holdout_prop"),
    (["--lr_type=step"], "--lr_type"),
    (["--learning_rate=nan"], "--learning_rate"), (["--save_file=a/b"], "--save_file"), (["--unknown=1"], "--unknown"),
    (["--device=abacus"], "--device=abacus"), (["--seed=-1"], "--seed"),
    (["--dataset=cifar10", "--data_loc=nowhere"], "nowhere: neither train/CLASS/ and test/CLASS/ folders nor")])
def test_train_refuses(script, tmp_path, flags, words):
    refused(script(*TRAIN, *flags), words)
    assert contents(tmp_path) == {} and not (tmp_path / "nowhere").exists()


def damage_checkpoint(folder):
    path = folder / "checkpoints/base.t7"
    path.write_bytes(path.read_bytes()[:-500])


def forge_checkpoint(folder):
    torch.save({"weights": Touch(folder / "executed")}, folder / "checkpoints/base.t7")


def foreign_checkpoint(folder):
    torch.save({"state_dict": {}}, folder / "checkpoints/base.t7")


def foreign_weights(folder):
    """Of types that have no bytes for NumPy."""
    torch.save({"a": torch.ones(2, dtype=torch.bfloat16), "b": torch.nn.Parameter(torch.ones(2))},
               folder / "checkpoints/base.t7")


def mismatched_checkpoint(folder):
    content = torch.load(folder / "checkpoints/base.t7", weights_only=True)
    content["widths"]["Conv_0"] = 3
    saved_anew(folder / "checkpoints/base.t7", content)


def forge_table(folder):
    (folder / "perf_tables/table.pickle").write_bytes(pickle.dumps({"FC": Touch(folder / "executed")}))


def torn_table(folder):
    path = folder / "perf_tables/table.pickle"
    path.write_bytes(path.read_bytes()[:300])


def nan_table(folder):
    table = arithmetic_table(TINY)
    table["Skip_2"][1, 1] = np.nan
    write_pair(folder / "perf_tables/table.pickle", table, {})


def other_table(folder):
    write_pair(folder / "perf_tables/table.pickle", arithmetic_table(describe("res", depth=10, width=0.25)), {})


def nothing(folder):
    pass


def unfinished_base(folder):
    (folder / "checkpoints/base.t7").rename(folder / "checkpoints/base.unfinished.t7")


@pytest.mark.parametrize("damage, flags, words", [
    (damage_checkpoint, [], ["base.t7: not a whole checkpoint"]),
    (forge_checkpoint, [], ["base.t7: not a whole checkpoint"]),
    (foreign_checkpoint, [], ["base.t7: expected a checkpoint of this project, but arguments, widths"]),
    (foreign_weights, [], ["base.t7: expected a checkpoint of this project, but arguments, widths"]),
    (mismatched_checkpoint, [], ["base.t7: its weights don't fit", "Conv_0"]),
    (nothing, ["--base_model=absent"], ["absent.t7: no such checkpoint"]),
    (nothing, ["--perf_table=absent"], ["absent.pickle: no such file"]),
    (torn_table, [], ["table.pickle: not a whole pickle"]),
    (forge_table, [], ["table.pickle: holds", "refused, nothing in it was run"]),
    (nan_table, [], ["table.pickle: Skip_2: 1 entries are not positive"]),
    (other_table, [], ["table.pickle: not a table of net res, depth 10, width 0.125", "Conv_0", "FC"][:1]),
    (nothing, ["--pruning_fact=0"], ["--pruning_fact"]), (nothing, ["--pruning_fact=1"], ["--pruning_fact"]),
    (nothing, ["--pruning_fact=1.5"], ["--pruning_fact"]), (nothing, ["--pruning_fact=nan"], ["--pruning_fact"]),
    (nothing, ["--pruning_fact=0.999", "--init_red_fact=1"], ["no layer can gain", "--init_red_fact"]),
    (nothing, ["--depth=16"], ["base.t7: a network of depth 10, but --depth=16"]),
    (nothing, ["--save_file=base"], ["would overwrite the base model"]),
    (unfinished_base, ["--base_model=base.unfinished", "--save_file=base"], ["would overwrite the base model"]),
    (nothing, ["--dataset=cifar10", "--data_loc=nowhere"],
     ["nowhere: neither train/CLASS/ and test/CLASS/ folders nor"]),
    (nothing, ["--decay_rate=2"], ["--decay_rate"]), (nothing, ["--save_file="], ["--save_file"])],
    ids=lambda v: getattr(v, "__name__", None))
def test_prune_refuses_and_changes_nothing(ready, script, damage, flags, words):
    damage(ready)
    before = contents(ready)
    refused(script(*PRUNE, *flags), *words)
    assert contents(ready) == before and not (ready / "executed").exists()


@pytest.fixture
def files(tmp_path, script):
    """A folder of .tflite files of the tiniest network."""
    script("compute_table.py", "--depth=10", "--width=0.0625", "--mode=save", "--save_file=x", check=True)
    return tmp_path / "tflite_files"


LOAD = ["compute_table.py", "--depth=10", "--width=0.0625", "--mode=load", "--save_file=x"]


def test_load_refuses_another_network_and_missing_or_torn_files(files, script, tmp_path):
    assert (files / "Stride_2/Stride_2_1_2.tflite").exists()
    refused(script(*LOAD, "--depth=16"), "manifest.json", "depth=10", "depth=16")
    refused(script(*LOAD, "--num_images=2"), "manifest.json", "num_images 1, asked for 2")
    refused(script(*LOAD, "--output_folder=absent"), "absent/manifest.json: missing")
    refused(script(*LOAD, "--benchmark_lite_loc=absent"), "absent: no benchmark_model binary there")
    torn = files / "Stride_2/Stride_2_1_2.tflite"
    whole = torn.read_bytes()
    torn.write_bytes(whole[:200])
    refused(script(*LOAD), "Stride_2_1_2.tflite: not the file that --mode=save wrote")
    (tmp_path / "perf_tables/x.journal").unlink()
    (checksums,) = files.glob("checksums-*")
    recorded = checksums.read_bytes()
    checksums.unlink()  # as an older version left the folder
    found = script(*LOAD)
    refused(found, "Stride_2_1_2.tflite: could not be timed in 3 attempts: LiteRT")
    assert "carries no checksum" in found.stderr
    checksums.write_bytes(recorded)
    journal = tmp_path / "perf_tables/x.journal"
    assert len(journal.read_text().splitlines()) > 10 and not (tmp_path / "perf_tables/x.pickle").exists()
    refused(script(*LOAD), "x.journal: an unfinished measurement", "--resume")
    refused(script(*LOAD, "--resume", "--num_measures=3"), "x.journal: began with num_measures 11, now 3")
    torn.unlink()
    refused(script(*LOAD, "--resume"), "Stride_2_1_2.tflite: missing")
    torn.write_bytes(whole)
    before = journal.read_text()
    journal.write_text(before + '["FC", 1, 10, [0.0')  # a torn last line
    script(*LOAD, "--resume", check=True)
    assert journal.read_text().startswith(before)
    assert (tmp_path / "perf_tables/x.pickle").exists()
    (files / "manifest.json").write_text("{")
    refused(script(*LOAD), "manifest.json: not whole JSON")


def test_a_failing_tool_is_retried_then_quoted(files, script, tmp_path):
    tool = tmp_path / "tool"
    tool.write_text(f"#!/bin/sh\necho asked >> {tmp_path}/asked\necho some words\necho last words\nexit 7\n")
    tool.chmod(0o755)
    refused(script(*LOAD, f"--benchmark_lite_loc={tool}"), "tflite_files/", ".tflite: could not be timed", "3 attempts",
            "exit code 7", "some words | last words")
    assert len((tmp_path / "asked").read_text().splitlines()) == 3


def test_a_table_of_a_binary_says_and_keeps_its_statistic(files, script, tmp_path):
    tool = tmp_path / "tool"
    load = [*LOAD, f"--benchmark_lite_loc={tool}", "--num_passes=1", "--calibrate=0", "--patience=0"]

    def prints(least, first=""):
        """A tool of always the same size, or the journal would tell it by that."""
        tool.write_text(f"#!/bin/sh\n{first}\necho 'count=11 first=9 curr=9 {least} max=9 avg=8.5 std=1'\n"
                        "echo 'Inference timings in us: Init: 1, Inference (avg): 8.5'\n#".ljust(1000, "#"))
        tool.chmod(0o755)

    prints("min=8", f"echo >> {tmp_path}/asked; [ $(wc -l < {tmp_path}/asked) -lt 20 ] || exit 1")
    refused(script(*load), "could not be timed in 3 attempts")
    prints("median=8")
    refused(script(*load, "--resume"), "x.journal: began with visit_statistic 'min', now 'median'")
    prints("min=8")
    script(*load, "--resume", check=True)
    note = json.loads((tmp_path / "perf_tables/x.json").read_text())
    assert note["statistic"] == ("the lowest visit while the probe was as fast as usual; of a visit the min of its "
                                 "runs, as the tool printed it")
    assert note["visit_statistic"] == "min"


def test_save_refuses(files, script):
    before = contents(files)
    refused(script("compute_table.py", "--depth=16", "--width=0.0625", "--mode=save", "--save_file=x"), "manifest.json")
    refused(script(*LOAD[:3], "--mode=save", "--save_file=x", "--num_process=2", "--offset_process=2"),
            "--offset_process=2")
    refused(script(*LOAD[:3], "--mode=save", "--save_file=x", "--converter=keras"), "--converter=direct")
    assert contents(files) == before


@pytest.mark.slow
def test_four_shells_write_what_one_writes(script, tmp_path):
    flags = ["compute_table.py", "--depth=10", "--width=0.125", "--mode=save", "--save_file=x"]
    script(*flags, "--output_folder=one", check=True)
    shells = [subprocess.Popen([sys.executable, str(ROOT / flags[0]), *flags[1:], "--output_folder=four",
                                "--num_process=4",
                                f"--offset_process={n}"], cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL)
              for n in range(4)]
    assert [s.wait(120) for s in shells] == [0, 0, 0, 0]
    one, four = (variants.read_checksums(tmp_path / name) for name in ("one", "four"))
    assert one == four and len(one) == len(list((tmp_path / "one").rglob("*.tflite")))
    for name in ("one", "four"):
        for path in (tmp_path / name).glob("checksums-*"):
            path.unlink()
    assert contents(tmp_path / "one") == contents(tmp_path / "four")


@pytest.mark.slow
def test_keras_converter_and_its_second_save(script, tmp_path):
    flags = ["compute_table.py", "--depth=10", "--width=0.0625", "--mode=save", "--save_file=x", "--converter=keras",
             "--num_process=40"]
    assert " 4 files written, 0 were whole" in script(*flags, check=True).stdout
    torn = next(tmp_path.rglob("*.tflite"))
    torn.write_bytes(torn.read_bytes()[:400])
    assert " 1 files written, 3 were whole" in script(*flags, check=True).stdout


def test_merge_from_the_shell(script, ready, tmp_path):
    found = script("perf_tables/merge_perf_tables.py", "merged", "table", "table", "--how=median", check=True)
    assert "perf_tables/merged.pickle: median of 2 tables" in found.stdout
    refused(script("perf_tables/merge_perf_tables.py", "merged2", "table", "absent"), "absent.pickle: no such file")
    refused(script("perf_tables/merge_perf_tables.py", "merged2", "table", "--sigma=-1"), "--sigma", "-1")
    assert not (tmp_path / "perf_tables/merged2.pickle").exists()


def test_merge_with_the_output_forgotten_replaces_no_measured_table(script, ready):
    merge, before = ["perf_tables/merge_perf_tables.py", "table"], contents(ready)
    refused(script(*merge, "table"), "perf_tables/table.pickle: a table that was not merged stands there", "--force")
    assert contents(ready) == before
    for _ in range(2):  # its own output may be replaced
        script("perf_tables/merge_perf_tables.py", "merged", "table", check=True)
    script(*merge, "merged", "--force", check=True)
    assert contents(ready) != before


@pytest.mark.parametrize("folder", ["checkpoints", "history"])
def test_an_unwritable_folder_is_said_before_the_work(ready, script, folder):
    if folder == "checkpoints":
        (ready / "elsewhere.t7").write_bytes((ready / "checkpoints/base.t7").read_bytes())
        (ready / "checkpoints/base.t7").unlink()
        (ready / "checkpoints").rmdir()
    (ready / folder).write_text("a file stands where the folder should be")
    base = "--base_model=./elsewhere.t7" if folder == "checkpoints" else "--base_model=base"
    before = contents(ready)
    refused(script(*PRUNE, base), f"{folder}: cannot write there")
    assert contents(ready) == before


@pytest.mark.slow
def test_a_full_disk_leaves_nothing_half_written(tmp_path, script):
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(tmp_path)],
                                           capture_output=True).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        refused(script(*TRAIN, "--width=1"), "base", "No space left on device")
        assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == []
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


# --- Ctrl-C ----------------------------------------------------------------------------------------------------

def listening():
    """Tests that run in the background of a shell have Ctrl-C ignored, and so would what they start."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def interrupted(process, number):
    """What a process says on stderr after a signal, which Python loses inside a destructor: then it is sent again."""
    for patience_s in (20, 20, 60):
        process.send_signal(number)
        try:
            return process.communicate(timeout=patience_s)[1]
        except subprocess.TimeoutExpired:
            continue
    process.kill()
    raise AssertionError(f"the signal does not end it: {process.communicate()[1]}")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("flags", [[*TRAIN[:-2], "--epochs=500", "--save_file=long"],
                                   [*PRUNE[:-2], "--init_red_fact=30", "--short_term_fine_tune=5000"]],
                         ids=["train", "prune"])
def test_signals_say_how_to_go_on(ready, flags, number):
    process = subprocess.Popen([sys.executable, str(ROOT / flags[0]), *flags[1:]], cwd=ready, env=environment(),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=listening)
    process.stdout.readline()
    time.sleep(1)
    errors = interrupted(process, number)
    assert process.returncode == 128 + number
    assert "Traceback" not in errors
    assert errors.strip().splitlines()[-1].startswith("stopped; what was finished is kept. To go on: python ")
    assert errors.strip().endswith("--resume")
