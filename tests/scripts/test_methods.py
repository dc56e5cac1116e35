"""prune.py --method and --pruning_method: each meets its target and leaves the same files."""

import json
import shutil
import subprocess
import sys

import pytest
import torch

from tests.helpers import PRUNE, ROOT, TINY, TRAIN, contents, environment, proportional_table, refused
from utils.common import journal
from utils.common.pickles import read_pickle
from utils.latency import plots
from utils.latency.tables import latency_s
from utils.pruning.candidates import Workshop
from utils.search import baselines, trade


def meets_its_target(folder, part):
    """The checkpoint, after a look at everything that a pruning leaves."""
    pruned = torch.load(folder / "checkpoints/pruned.t7", weights_only=True)
    first, last = pruned["table_costs_history"][0], pruned["table_costs_history"][-1]
    assert last == latency_s(TINY, pruned["widths"], proportional_table(TINY)) <= (1 - part) * first
    assert read_pickle(folder / "nbr_channels/pruned.pickle") == TINY.conv_channels(pruned["widths"])
    assert {k: tuple(v.shape) for k, v in pruned["state_dict"].items() if "num_batches" not in k} == \
        TINY.weight_shapes(pruned["widths"])
    assert (folder / "history/pruned.png").exists() and not list(folder.rglob("*unfinished*"))
    return pruned


@pytest.mark.parametrize("method", ["netadapt", "trade", *baselines.METHODS])
def test_every_method_meets_its_target_and_leaves_the_same_files(priced, script, method):
    flags = [*PRUNE, f"--method={method}", "--scratch_epochs=1"]  # which all but trade ignore
    script(*flags, check=True)
    pruned = meets_its_target(priced, 0.3)
    records = [json.loads(line) for line in (priced / "history/pruned.jsonl").read_text().splitlines()]
    steps = [r for r in records if r["event"] == "step"]
    if method != "netadapt":
        (step,) = steps
        assert step["method"] == method and {g: after for g, (_, after) in step["widths"].items()} == \
            {g: w for g, w in pruned["widths"].items() if w != TINY.full_widths[g]}
    assert "finished already" in script(*flags, "--resume", check=True).stdout


@pytest.mark.parametrize("scores", ["fisher", "taylor", "bn", "random"])
def test_every_way_to_score_channels(priced, script, scores):
    script(*PRUNE, f"--pruning_method={scores}", check=True)
    first = meets_its_target(priced, 0.3)
    if scores in ("taylor", "random"):
        script(*PRUNE, f"--pruning_method={scores}", check=True)
        assert first["prune_history"] == meets_its_target(priced, 0.3)["prune_history"]


def test_methods_refuse_what_they_cannot_do(priced, script):
    before = contents(priced)
    refused(script(*PRUNE, "--method=uniform", "--pruning_fact=0.999"), "--method=uniform", "lower --pruning_fact")
    refused(script("prune.py", "--plan", "--method=knapsack", "--perf_table=table", "--pruning_fact=0.3"),
            "--plan reads no images")
    refused(script(*PRUNE, "--method=params", "--pruning_fact=0.999", "--floor=0.5"), "--method=params", "--floor")
    refused(script(*PRUNE, "--method=trade", "--pruning_fact=0.999"), "--method=trade: ", "lower --pruning_fact")
    assert contents(priced) == before


def test_the_knapsack_in_steps_ends_the_same_resumed_and_at_one_step_is_as_before(priced, script, monkeypatch):
    """A run that is interrupted in its second step repeats that step alone."""
    flags = [*PRUNE, "--method=knapsack", "--knapsack_steps=3", "--short_term_fine_tune=2"]
    said = script(*flags, check=True).stdout
    first = meets_its_target(priced, 0.3)
    costs = first["table_costs_history"]
    assert len(costs) == 4 and all(after <= costs[0] * 0.7 ** (step / 3) for step, after in enumerate(costs))
    assert costs[0] > costs[1] > costs[2] > costs[3] and costs[1] > costs[0] * 0.7  # a third of the way, no more
    assert [r["step"] for r in first["prune_history"]] == [1, 2, 3] and said.count("% after 2 batches") == 3
    tune = Workshop.tune

    def interrupted(workshop, model, batches, step):
        if step == 2:
            raise KeyboardInterrupt
        return tune(workshop, model, batches, step)

    with monkeypatch.context() as patch:
        patch.setattr(Workshop, "tune", interrupted)
        assert script(*flags).returncode == 130
    assert script(*flags, "--resume", check=True).stdout.count("% after 2 batches") == 2
    again = meets_its_target(priced, 0.3)
    assert all(torch.equal(again["state_dict"][k], v) for k, v in first["state_dict"].items())
    assert again["prune_history"] == first["prune_history"]
    alone = script(*PRUNE, "--method=knapsack", "--knapsack_steps=1", check=True).stdout
    assert "before any fine-tuning" in alone and len(meets_its_target(priced, 0.3)["prune_history"]) == 1


def test_the_default_trades_as_the_base_was_trained_unless_a_flag_or_a_run_says_otherwise(priced, script):
    """A run that goes on keeps its method; a flag of NetAdapt's search or of fine-tuning means NetAdapt."""
    plain = ["prune.py", "--base_model=base", "--perf_table=table", "--save_file=pruned", "--pruning_fact=0.3"]
    script(*TRAIN, "--learning_rate=0.05", "--batch_size=32", "--weight_decay=1e-3", check=True)
    said = script(*plain, check=True).stdout
    assert said.startswith("--method=trade: the default\n") and "after 3 epochs; " in said
    assert said.endswith("python train.py --net=res --depth=10 --width=0.125 --channels=pruned --save_file=NAME\n")
    assert meets_its_target(priced, 0.3)["prune_history"][0]["method"] == "trade"
    flags = json.loads((priced / "history/pruned.jsonl").read_text().splitlines()[0])["flags"]
    assert (flags["method"], flags["scratch_rate"], flags["batch_size"], flags["weight_decay"], flags["momentum"]) == (
        "trade", 0.05, 32, 1e-3, 0.9)
    assert "finished already" in script(*plain, "--resume", check=True).stdout
    refused(script(*plain, "--scratch_epochs=2", "--resume"), "--scratch_epochs was None, now 2")
    again = torch.load(priced / "checkpoints/pruned.t7", weights_only=True)["training"]  # for another pruning
    assert again == {"learning_rate": 0.05, "momentum": 0.9, "weight_decay": 1e-3, "batch_size": 32}
    said = script(*plain, "--init_red_fact=2", "--short_term_fine_tune=1", check=True).stdout
    assert said.startswith("--method=netadapt: --init_red_fact is a flag of it\n") and "step 1: " in said
    flags = json.loads((priced / "history/pruned.jsonl").read_text().splitlines()[0])["flags"]
    assert flags["method"] == "netadapt" and flags["batch_size"] == 128
    script(*plain, "--method=uniform", check=True)
    again = script(*plain, "--resume", check=True).stdout
    assert again == "--method=uniform: as the run began\ncheckpoints/pruned.t7: finished already\n"
    start, step, _ = map(json.loads, (priced / "history/pruned.jsonl").read_text().splitlines())
    for name in ("checkpoints/pruned.t7", "history/pruned.jsonl", "nbr_channels/pruned.pickle"):
        (priced / name).unlink()
    (priced / "history/pruned.unfinished.jsonl").write_text(journal.line(start))  # killed before its only step
    again = script(*plain, "--resume", check=True).stdout
    assert again.startswith("--method=uniform: as the run began\n")
    assert json.loads((priced / "history/pruned.jsonl").read_text().splitlines()[1])["widths"] == step["widths"]
    edited = {**start, "flags": {**start["flags"], "method": ["trade"]}}
    (priced / "history/pruned.unfinished.jsonl").write_text(journal.line(edited))
    refused(script(*plain, "--resume"), "history/pruned.unfinished.jsonl: ", "--method was ['trade'], now 'trade'")
    script("train.py", "--init=base", "--dataset=digits", "--epochs=1", "--save_file=tuned", check=True)
    said = script(*plain, "--base_model=tuned", "--save_file=other", "--pruning_fact=0.02", check=True).stdout
    assert said.startswith("--method=netadapt: the default, trade, needs a base model that train.py trained from ")


def test_a_plan_is_of_netadapt_or_of_the_method(priced, script):
    plan = ["prune.py", "--plan", "--base_model=base", "--perf_table=table", "--pruning_fact=0.3"]
    assert script(*plan, check=True).stdout == script(*plan, "--method=netadapt", check=True).stdout
    assert "the first step has to gain" in script(*plan, check=True).stdout
    said = script(*plan, "--method=trade", check=True).stdout
    assert "--method=trade begins with these widths, and trains networks to find better ones; asked for " in said
    begins, most = (json.loads(script(*plan, f"--method={method}", "--json", check=True).stdout)
                    for method in ("trade", "params"))
    assert begins == most and begins["latency_s"] <= 0.7 * begins["total_latency_s"]


def test_trading_says_what_it_judged_and_ends_the_same_from_scratch_in_workers_and_resumed(priced, script):
    """The journal of a whole run, cut behind its second network, is what a killed run leaves: after the first epoch of
    networks that go on or not."""
    flags = [*PRUNE, "--method=trade", "--scratch_epochs=2"]
    said = script(*flags, check=True).stdout
    history = (priced / "history/pruned.jsonl").read_text()
    networks = [r for r in map(json.loads, history.splitlines()) if r["event"] == "network"]
    glanced, judged = ([r for r in networks if (r["epochs"], r["part"]) == of] for of in ((1, 2 / 9), (2, 1)))
    best = min(judged, key=lambda r: trade.figure(r["loss"], r["parameters"]))
    assert best["widths"] == meets_its_target(priced, 0.3)["widths"]
    assert all(r["parameters"] == TINY.parameter_count(r["widths"]) and r["latency_s"] == latency_s(
        TINY, r["widths"], proportional_table(TINY)) for r in networks)
    assert f"training loss {best['loss']:.4f} after 2 epochs" in said
    assert len(glanced) > len(judged) > 1 and "after one epoch on 22% of the images;" in said
    script(*flags, "--jobs=2", "--save_file=there", check=True)
    there = [json.loads(line) for line in (priced / "history/there.jsonl").read_text().splitlines()]
    assert sorted(map(json.dumps, (r for r in there if r["event"] == "network"))) == sorted(map(json.dumps, networks))
    start, *records, _ = map(json.loads, history.splitlines())
    for name in ("checkpoints/pruned.t7", "history/pruned.jsonl", "nbr_channels/pruned.pickle"):
        (priced / name).unlink()
    left = [start, *[r for r in records if r["event"] == "network"][:2]]
    (priced / "history/pruned.unfinished.jsonl").write_text("".join(map(journal.line, left)))
    again = script(*flags, "--resume", check=True).stdout
    assert again.count("training loss") == len(networks) - 2
    now = [json.loads(line) for line in (priced / "history/pruned.jsonl").read_text().splitlines()]
    assert [r for r in now if r["event"] in ("network", "step")] == [
        r for r in records if r["event"] in ("network", "step")]
    assert "finished already" in script(*flags, "--resume", check=True).stdout
    refused(script(*flags, "--scratch_rate=0.2", "--resume"), "--scratch_rate was")


def test_the_quick_search_ends_the_same_in_workers_and_resumed(priced, script):
    """The journal of a whole run, cut within its first step, is what a killed run leaves; its candidates are lost."""
    flags = [*PRUNE, "--search=quick", "--init_red_fact=2", "--short_term_fine_tune=5"]
    script(*flags, check=True)
    start, *records, _ = map(json.loads, (priced / "history/pruned.jsonl").read_text().splitlines())
    meets_its_target(priced, 0.3)
    assert [rung["images"] for rung in start["rungs"]] == [1000, 2000, None] and start["rungs"][1]["frozen"]
    assert {r["rung"] for r in records if r["event"] == "candidate"} == {"score", "short", "full"}
    script(*flags, "--jobs=2", "--save_file=there", check=True)
    there = [json.loads(line) for line in (priced / "history/there.jsonl").read_text().splitlines()]
    assert [r for r in there if r["event"] == "step"] == [r for r in records if r["event"] == "step"]
    for name in ("checkpoints/pruned.t7", "history/pruned.jsonl", "nbr_channels/pruned.pickle"):
        (priced / name).unlink()
    trials = [{"event": "trial", "step": 1, "rung": "score", "error_pct": r["errors_pct"]["score"], "loss": None,
               **{k: r[k] for k in ("group", "width", "proposed_width", "gain_s", "missing_s")}}
              for r in records if r["event"] == "candidate" and r["step"] == 1]
    (priced / "history/pruned.unfinished.jsonl").write_text("".join(map(journal.line, [start, *trials])))
    again = script(*flags, "--resume", check=True).stdout
    assert "step 1, short" in again
    now = [json.loads(line) for line in (priced / "history/pruned.jsonl").read_text().splitlines()]
    assert [r for r in now if r["event"] == "step"] == [r for r in records if r["event"] == "step"]
    refused(script(*PRUNE, "--search=halving", "--init_red_fact=2", "--short_term_fine_tune=5", "--resume",
                   "--save_file=pruned"), "--search was")


def test_a_plan_of_a_method_without_data_is_what_it_does(priced, script):
    flags = ["--method=params", "--floor=1"]
    before = contents(priced)
    plan = ["prune.py", "--plan", "--base_model=base", "--perf_table=table", "--pruning_fact=0.3", *flags]
    planned = json.loads(script(*plan, "--json", check=True).stdout)
    said = script(*plan, check=True).stdout
    assert contents(priced) == before
    assert f"{'parameters':<14}{TINY.parameter_count(TINY.full_widths):>12,}{planned['parameters']:>12,}" in said
    script(*PRUNE, *flags, check=True)
    pruned = meets_its_target(priced, 0.3)
    assert pruned["widths"] == planned["widths"] and pruned["table_costs_history"][-1] == planned["latency_s"]
    assert all(planned["widths"][group] == TINY.full_widths[group] for group in TINY.streams)
    refused(script(*PRUNE, "--method=params", "--resume"), "--floor was 1.0, now 0.25")


def test_a_name_may_hold_what_matplotlib_takes_for_mathematics(priced, script):
    script(*PRUNE, "--method=uniform", "--save_file=a$b_$", check=True)
    assert (priced / "history/a$b_$.png").stat().st_size and not list(priced.glob("*/*.unfinished*"))
    plots.plot_validation(priced / "v.png", [1e-3, 2e-3], [1e-3, 2e-3], title="a$b_$")
    assert (priced / "v.png").stat().st_size


@pytest.mark.parametrize("trouble", ["backend", "settings"])
def test_a_picture_never_costs_a_result(priced, tmp_path, trouble):
    """An unknown backend in the environment, and settings that need a LaTeX which is not there."""
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\n" if trouble == "settings" else "")
    given = {"MPLBACKEND": "nonsense"} if trouble == "backend" else {
        "MATPLOTLIBRC": str(tmp_path / "matplotlibrc"), "PATH": "/nowhere"}  # and so no LaTeX
    command = [*PRUNE, "--method=uniform"]
    done = subprocess.run([sys.executable, str(ROOT / command[0]), *command[1:]], cwd=priced, text=True,
                          env={**environment(), **given}, capture_output=True)
    assert done.returncode == 0, done.stderr
    names = {p.name for p in priced.glob("*/pruned.*")}
    assert {"pruned.t7", "pruned.pickle", "pruned.jsonl"} <= names and not list(priced.glob("*/*unfinished*"))
    assert "pruned.png" not in names and "pruned.png" not in done.stdout
    assert "history/pruned.png: no picture, " in done.stderr and "The result is whole without it" in done.stderr


@pytest.mark.parametrize("count, unit, cost", [("macs", "M MACs", TINY.multiply_adds),
                                               ("params", "k parameters", TINY.parameter_count)])
def test_counts_need_no_table(ready, script, count, unit, cost):
    shutil.rmtree(ready / "perf_tables")
    said = script("prune.py", "--base_model=base", f"--perf_table={count}", "--save_file=pruned", "--pruning_fact=0.4",
                  "--method=uniform", check=True).stdout
    assert f" {unit} to be brought to " in said and f", {unit} " in said and " ms" not in said
    start, step, _ = map(json.loads, (ready / "history/pruned.jsonl").read_text().splitlines())
    assert start["perf_table"] == count and start["counts"] and start["initial_latency_s"] == cost(TINY.full_widths)
    widths = torch.load(ready / "checkpoints/pruned.t7", weights_only=True)["widths"]
    assert step["latency_s"] == cost(widths) <= 0.6 * cost(TINY.full_widths)


def test_netadapt_by_macs_resumes_and_a_table_of_that_name_is_said(ready, script):
    table = ready / "perf_tables/macs.pickle"
    table.write_bytes((ready / "perf_tables/table.pickle").read_bytes())
    flags = [*PRUNE[:2], "--perf_table=macs", *PRUNE[3:]]
    found = script(*flags, check=True)
    assert "note: --perf_table=macs counts; perf_tables/macs.pickle is not read" in found.stderr
    assert "M MACs, asked for" in found.stdout and (ready / "history/pruned.png").read_bytes()[:4] == b"\x89PNG"
    assert "finished already" in script(*flags, "--resume", check=True).stdout
    refused(script(*PRUNE, "--resume"), "--perf_table was 'macs', now 'table'")
    by_file = script("prune.py", "--plan", "--base_model=base", "--perf_table=perf_tables/macs.pickle",
                     "--pruning_fact=0.3", check=True).stdout
    assert "total latency " in by_file and " ms" in by_file
    plan = script("prune.py", "--plan", "--base_model=base", "--perf_table=macs", "--pruning_fact=0.3",
                  check=True).stdout
    assert "total multiply-accumulate operations " in plan and "gain (M MACs)" in plan
    refused(script("prune.py", "--base_model=base", "--perf_table=params", "--save_file=x", "--pruning_fact=0.99",
                   "--method=uniform"), "the least trainable parameters is ", "k parameters, asked for")
    refused(script("prune.py", "--base_model=base", "--perf_table=params", "--save_file=x", "--pruning_fact=0.9999",
                   "--method=netadapt"), "--method=netadapt: the least trainable parameters is ", "k parameters, asked")
