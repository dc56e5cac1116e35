"""What prune.py does where no flag says."""

import pytest

from utils.common.errors import UserError
from utils.comparison.jobs import parser_of
from utils.search.defaults import FROM_SCRATCH, NETADAPT, SOUND, filled, method, training_of, unread

NEEDED = ["--perf_table=x", "--pruning_fact=0.5"]


def given(*flags):
    return vars(parser_of("prune.py").parse_args([*NEEDED, *flags]))


@pytest.mark.parametrize("flags, begun, trained, found", [
    ([], None, True, "trade"), ([], None, False, "netadapt"), ([], "uniform", True, "uniform"),
    (["--init_red_fact=20"], None, True, "netadapt"), (["--search=halving"], None, True, "netadapt"),
    (["--allow_small_prunings"], None, True, "netadapt"), (["--pruning_method=l2"], None, True, "netadapt"),
    (["--long_term_fine_tune=0"], None, True, "netadapt"), (["--learning_rate=8e-4"], None, True, "netadapt"),
    (["--batch_size=8", "--floor=0.5", "--seed=3"], None, True, "trade"),
    (["--knapsack_steps=1"], None, True, "knapsack"),
    (["--knapsack_steps=5", "--short_term_fine_tune=9", "--pruning_method=l2"], None, True, "knapsack"),
    (["--scratch_epochs=2"], None, False, "trade"), (["--scratch_rate=0.1"], None, True, "trade"),
    (["--method=trade", "--search=full"], "netadapt", False, "trade"), (["--search=full"], "trade", False, "trade")])
def test_the_method(flags, begun, trained, found):
    name, why = method(given(*flags), begun, trained=trained)
    assert name == found and bool(why) == ("--method=trade" not in flags)


def test_flags_of_two_methods_name_none():
    with pytest.raises(UserError, match="--reach is a flag of --method=netadapt, --scratch_rate of --method=trade; "):
        method(given("--scratch_rate=0.1", "--reach=1"), None, trained=True)
    assert method(given("--scratch_rate=0.1", "--reach=1", "--method=uniform"), None, trained=True)[0] == "uniform"


@pytest.mark.parametrize("flags, name, found", [
    ([], "trade", []), (["--floor=0.5"], "uniform", ["floor"]), (["--floor=0.5"], "trade", []),
    (["--short_term_fine_tune=9"], "trade", ["short_term_fine_tune"]),
    (["--removals=last", "--allow_small_prunings", "--search=full"], "netadapt", []),
    (["--removals=last", "--allow_small_prunings"], "trade", ["allow_small_prunings", "removals"]),
    (["--scratch_epochs=9", "--knapsack_steps=2", "--short_term_fine_tune=3"], "knapsack", ["scratch_epochs"]),
    (["--scratch_rate=9", "--knapsack_steps=2"], "uniform", ["scratch_rate", "knapsack_steps"])])
def test_flags_that_the_method_does_not_read(flags, name, found):
    assert unread(given(*flags), name) == found


def test_every_flag_of_netadapt_is_one_and_has_its_value():
    assert {name: given()[name] for name in NETADAPT} == {**dict.fromkeys(NETADAPT), "allow_small_prunings": False}
    found = filled(given(), "netadapt", None)
    assert {name: found[name] for name in NETADAPT} == NETADAPT
    assert (found["momentum"], found["weight_decay"], found["batch_size"]) == (0.9, 5e-4, 128)
    assert found["pruning_method"] == "l2" and found["floor"] == 0 and found["scratch_epochs"] is None
    assert filled(given("--reach=6", "--batch_size=8"), "netadapt", None)["reach"] == 6
    assert filled(given(), "knapsack", None)["pruning_method"] == "taylor"


def test_trade_repeats_the_training_of_the_base_model():
    training = {**FROM_SCRATCH, "learning_rate": 0.05, "batch_size": 32}
    found = filled(given("--weight_decay=1e-3"), "trade", training)
    assert (found["scratch_rate"], found["batch_size"], found["weight_decay"], found["floor"]) == (0.05, 32, 1e-3, 0.25)
    assert filled(given("--scratch_rate=0.3"), "trade", training)["scratch_rate"] == 0.3
    unknown = filled(given("--batch_size=16"), "trade", None)  # what a comparison compares two spellings by
    assert unknown["batch_size"] == 16 and unknown["momentum"] is None and unknown["scratch_rate"] is None


def test_how_a_network_was_trained_is_known_where_train_py_did_it_from_scratch():
    trained = {"epoch": 20, "flags": {"learning_rate": 0.05, "batch_size": 32, "momentum": 0.0, "epochs": 20}}
    assert training_of(trained) == {"learning_rate": 0.05, "momentum": 0.0, "weight_decay": 5e-4, "batch_size": 32}
    assert training_of({"epoch": 0, "flags": {}}) is None
    assert training_of({"epoch": 5, "flags": {"init": "other", "learning_rate": 0.01}}) is None
    pruned = {"epoch": 5, "flags": {"learning_rate": 8e-4, "batch_size": 8}, "prune_history": []}
    assert training_of(pruned) is None  # of an older version, which does not tell
    assert training_of({**pruned, "training": {"learning_rate": 0.3}}) == {**FROM_SCRATCH, "learning_rate": 0.3}


@pytest.mark.parametrize("edited", [
    {"learning_rate": "x", "batch_size": 3.5, "momentum": -1.0}, {"batch_size": 0}, {"batch_size": 1},
    {"batch_size": True}, {"learning_rate": 0.0}, {"learning_rate": float("inf")}, {"weight_decay": float("nan")}])
def test_what_train_py_refuses_is_no_training(edited):
    assert training_of({"epoch": 5, "flags": edited}) == FROM_SCRATCH


@pytest.mark.parametrize("name", FROM_SCRATCH)
def test_what_is_taken_for_a_training_is_what_train_py_takes(name):
    parser, (low, high) = parser_of("train.py"), SOUND[name]
    assert parser.get_default(name) == FROM_SCRATCH[name]
    for value in (low, high):
        assert vars(parser.parse_args(["--save_file=x", f"--{name}={value}"]))[name] == value
    for beyond in (low - (1 if name == "batch_size" else 1e-6), high * 2):
        with pytest.raises(SystemExit):
            parser.parse_args(["--save_file=x", f"--{name}={beyond}"])
