"""What a comparison makes: the grid has no network twice, and a method has one spelling."""

import pytest

from model.architectures import describe
from tests.helpers import SMALL, proportional_table
from utils.comparison import flags as flags_of_comparison
from utils.comparison import grid
from utils.comparison.plan import Base, Task, row_for
from utils.comparison.results import Row
from utils.search.defaults import FROM_SCRATCH


def base_of(depth, width, grid_width):
    network, wider = describe("res", depth=depth, width=width), describe("res", depth=depth, width=grid_width)
    return Base({}, None, None, network, network.full_widths, proportional_table(network), wider,
                proportional_table(wider))


def test_the_grid_has_no_network_twice(capsys):
    base = base_of(22, 0.5, 0.5)
    budgets_s = {fact: base.budget_s(fact) for fact in (0.1, 0.3, 0.5)}
    sizes = {fact: [(n.arguments["depth"], n.arguments["width"]) for n in networks]
             for fact, networks in grid.networks(base.grid_network, base.grid_latency_s, [10, 22], budgets_s).items()}
    assert [s for s in sizes[0.5] if s[0] == 10] == [(10, 0.5)]  # as wide as the table knows: for the least latency
    assert all(depth == 22 for fact in (0.1, 0.3) for depth, _ in sizes[fact])
    assert "grid, depth 10: the table ends at width 0.5" in capsys.readouterr().out
    for fact, found in sizes.items():
        for depth, width in found:
            latency = [base.grid_latency_s(n) for n in (describe("res", depth=depth, width=w)
                                                        for w in (width, width + 1 / 16))
                       if n.arguments["width"] <= 0.5]
            assert latency[0] <= base.budget_s(fact) and all(s > base.budget_s(fact) for s in latency[1:])


def test_a_wider_table_lets_the_grid_come_up_to_the_latency(capsys):
    base = base_of(22, 0.5, 1.5)
    (network,) = grid.networks(base.grid_network, base.grid_latency_s, [10], {0.3: base.budget_s(0.3)})[0.3]
    wider = describe("res", depth=10, width=network.arguments["width"] + 1 / 16)
    assert 0.5 < network.arguments["width"] < 1.5 and not capsys.readouterr().out
    assert base.grid_latency_s(network) <= base.budget_s(0.3) < base.grid_latency_s(wider)


@pytest.mark.parametrize("method, flags, prune_flags, expected", [
    ("netadapt", ["--reach", "6"], [], ["--reach=6"]), ("netadapt", ["--reach=6.0"], [], ["--reach=6"]),
    ("knapsack", ["--pruning_method=taylor"], [], []), ("netadapt", ["--pruning_method=l2"], [], []),
    ("uniform", ["--pruning_method=taylor"], [], ["--pruning_method=taylor"]),
    ("params", ["--floor=0.25"], [], []), ("params", ["--floor=0"], [], ["--floor=0"]),
    ("knapsack", ["--floor", "0.5"], [], ["--floor=0.5"]), ("knapsack", ["--floor=0"], [], []),
    ("netadapt", ["--allow_small_prunings", "--criterion=ratio"], ["--criterion=loss"],
     ["--allow_small_prunings", "--criterion=ratio"]),
    ("netadapt", ["--keep=layer4.*.0,stem.0"], [], ["--keep=layer4.*.0,stem.0"]),
    ("trade", ["--batch_size=64", "--scratch_rate=0.05", "--floor=0.25"], [], []),
    ("trade", ["--batch_size=128"], [], ["--batch_size=128"])])
def test_a_method_has_one_spelling(method, flags, prune_flags, expected):
    training = {**FROM_SCRATCH, "batch_size": 64, "learning_rate": 0.05}  # of the base model
    assert flags_of_comparison._own_flags(method, flags, prune_flags, training) == expected


def test_a_row_is_found_under_the_name_that_an_older_version_gave_it():
    task = Task("uniform", ("--keep=Conv_0*",), 0.4, 0, SMALL)
    row = Row("uniform-keep-Conv_0-0.4-seed0", "uniform", task.criterion, SMALL.short_name, "0", 0.4, 9.0, 8.0, 1e-4)
    assert row_for(task, {row.file_name: row}) is row
    for other in (Task("uniform", ("--keep=Conv_0",), 0.6, 0, SMALL), Task("uniform", (), 0.4, 0, SMALL)):
        assert row_for(other, {row.file_name: row}) is None


def test_methods_that_differ_in_a_pattern_have_names_of_their_own():
    names = {Task("uniform", flags, 0.4, 0, SMALL).name for flags in
             ((), ("--keep=Conv_0",), ("--keep=Conv_0*",), ("--keep=Conv_0?",), ("--keep=a,b",), ("--keep=a-b",))}
    assert len(names) == 6 and {"uniform-0.4-seed0", "uniform-keep-Conv_0-0.4-seed0"} < names


def test_methods_without_data_are_compared_with_their_flags():
    found = flags_of_comparison.checked_methods([["uniform_filled"], ["params"], ["macs", "--floor=0.5"]], [], [])
    assert found == (("uniform_filled",), ("params",), ("macs", "--floor=0.5"))


def test_an_architecture_without_depths_has_one_network_for_each_latency(capsys):
    network = describe("mobilenet_v2", width=0.25, img_size=16)

    def latency_s(one):
        return 1e-9 * one.multiply_adds(one.full_widths)

    budgets_s = {fact: (1 - fact) * latency_s(network) for fact in (0.2, 0.99)}
    found = grid.networks(network, latency_s, [16, 22], budgets_s)
    assert [len(found[fact]) for fact in (0.99, 0.2)] == [0, 1]
    assert latency_s(found[0.2][0]) <= budgets_s[0.2]
    assert "no network of any depth is as fast as --pruning_facts 0.99" in capsys.readouterr().out
