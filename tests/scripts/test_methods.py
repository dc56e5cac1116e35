"""prune.py --method and --pruning_method: each meets its target and leaves the same files."""

import json

import pytest
import torch

from tests.helpers import PRUNE, TINY, contents, proportional_table, refused
from utils.common.pickles import read_pickle
from utils.latency import plots
from utils.latency.tables import latency_s
from utils.search import baselines


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


@pytest.mark.parametrize("method", ["netadapt", *baselines.METHODS])
def test_every_method_meets_its_target_and_leaves_the_same_files(priced, script, method):
    script(*PRUNE, f"--method={method}", check=True)
    pruned = meets_its_target(priced, 0.3)
    records = [json.loads(line) for line in (priced / "history/pruned.jsonl").read_text().splitlines()]
    steps = [r for r in records if r["event"] == "step"]
    if method != "netadapt":
        (step,) = steps
        assert step["method"] == method and {g: after for g, (_, after) in step["widths"].items()} == \
            {g: w for g, w in pruned["widths"].items() if w != TINY.full_widths[g]}
    assert "finished already" in script(*PRUNE, f"--method={method}", "--resume", check=True).stdout


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
    refused(script("prune.py", "--plan", "--method=uniform", "--perf_table=table", "--pruning_fact=0.3"), "--plan")
    assert contents(priced) == before


def test_a_name_may_hold_what_matplotlib_takes_for_mathematics(priced, script):
    script(*PRUNE, "--method=uniform", "--save_file=a$b_$", check=True)
    assert (priced / "history/a$b_$.png").stat().st_size and not list(priced.glob("*/*.unfinished*"))
    plots.plot_validation(priced / "v.png", [1e-3, 2e-3], [1e-3, 2e-3], title="a$b_$")
    assert (priced / "v.png").stat().st_size
