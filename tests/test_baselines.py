"""The methods that choose all widths at once: toy latencies, literal and brute-force expectations."""

import itertools
import json

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from model.architectures import describe
from tests.test_latency_table import proportional_table
from tests.test_netadapt import FULL, NETWORK, latency
from tests.test_scripts import PRUNE, TINY, contents, ready, refused, trained  # noqa: F401 (fixtures)
from utils import baselines, plots
from utils.latency_table import latency_s, read_pickle, write_table
from utils.netadapt import NoWayOn


def test_uniform_takes_the_largest_factor_that_meets_the_budget():
    assert baselines.uniform(NETWORK, FULL, latency, 10.0) == FULL
    found = baselines.uniform(NETWORK, FULL, latency, 6.0)  # b costs in steps of 4: 2 * 4 + 2.8 > 6 >= 4.8 + 1.2
    assert found["a"] == found["b"] == 4 and (found["x"], found["y"]) == (3, 2)
    assert latency(dict(found, a=5, b=5)) > 6.0


def test_random_meets_the_budget_and_depends_on_the_seed_alone():
    network = describe("res", depth=10, width=1.0)
    price = lambda widths: sum(widths.values()) * 1.0
    total = price(network.full_widths)
    several = [baselines.at_random(network, network.full_widths, price, 0.6 * total, seed) for seed in (0, 0, 1)]
    assert several[0] == several[1] != several[2]
    for found in several:
        assert 0.55 * total < price(found) <= 0.6 * total and min(found.values()) >= 1


def worth_of(saliency, widths):
    return sum(sum(sorted(saliency[g], reverse=True)[:widths[g]]) for g in saliency)


@example(values=[1.0] * 7 + [0.5] * 3 + [1.0] * 10, part=0.5)  # two latency steps without a price of a second between them
@given(values=st.lists(st.floats(0.01, 1), min_size=20, max_size=20), part=st.floats(0.15, 0.95))
def test_the_knapsack_is_worth_nearly_what_the_best_of_all_choices_is(values, part):
    saliency = {"a": values[:10], "b": values[10:]}
    budget = part * 10.0
    found = baselines.knapsack(NETWORK, FULL, latency, budget, saliency)
    assert latency(found) <= budget
    choices = [dict(FULL, a=a, b=b) for a, b in itertools.product(range(1, 11), range(11))]
    best = max(worth_of(saliency, c) for c in choices if latency(c) <= budget)
    assert worth_of(saliency, found) >= 0.9 * best
    more = [dict(found, **{g: w}) for g in "ab" for w in range(found[g] + 1, 11)]
    assert all(latency(m) > budget for m in more)  # nothing is left to give back


@pytest.mark.parametrize("choose", [baselines.uniform, lambda *a: baselines.at_random(*a, 0),
                                    lambda *a: baselines.knapsack(*a, {"a": [1.0] * 10, "b": [1.0] * 10})])
def test_a_budget_out_of_reach_is_said(choose):
    with pytest.raises(NoWayOn, match="lower --pruning_fact"):
        choose(NETWORK, FULL, latency, 0.1)


# --- prune.py --method -----------------------------------------------------------------------------------------

@pytest.fixture
def priced(ready):
    write_table(ready / "perf_tables/table.pickle", proportional_table(TINY), {})
    return ready


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
