"""train.py --channels and --teacher: what pruning left is rebuilt, taught, and not mixed up."""

import pickle

import torch

from tests.helpers import PRUNE, TINY, TINY_FLAGS, contents, refused

RETRAIN = ["train.py", *TINY_FLAGS, "--dataset=digits", "--epochs=2", "--channels=pruned", "--save_file=again"]

FULL = TINY.conv_channels(TINY.full_widths)


def test_retraining_rebuilds_the_shapes_that_pruning_left(ready, script):
    script(*PRUNE, "--pruning_fact=0.6", "--allow_small_prunings", "--criterion=error", "--init_red_fact=1", check=True)
    pruned = torch.load(ready / "checkpoints/pruned.t7", weights_only=True)
    assert 0 in pruned["widths"].values()  # a removed block among them
    script(*RETRAIN, check=True)
    again = torch.load(ready / "checkpoints/again.t7", weights_only=True)
    assert again["widths"] == pruned["widths"] and "prune_history" not in again
    shapes = [{k: tuple(v.shape) for k, v in c["state_dict"].items()} for c in (pruned, again)]
    assert shapes[0] == shapes[1]
    assert not torch.equal(again["state_dict"]["Conv_0.weight"], pruned["state_dict"]["Conv_0.weight"])
    script("prune.py", "--base_model=again", "--perf_table=table", "--save_file=twice", "--pruning_fact=0.001",
           "--init_red_fact=1", "--short_term_fine_tune=1", check=True)  # like any other checkpoint


def test_a_teacher_changes_what_is_learnt_and_lends_its_normalisation(ready, script):
    (ready / "nbr_channels").mkdir()
    (ready / "nbr_channels/pruned.pickle").write_bytes(pickle.dumps(FULL))
    script(*RETRAIN, check=True)
    alone = torch.load(ready / "checkpoints/again.t7", weights_only=True)
    script(*RETRAIN, "--teacher=base", check=True)
    taught = torch.load(ready / "checkpoints/again.t7", weights_only=True)
    base = torch.load(ready / "checkpoints/base.t7", weights_only=True)
    assert taught["normalisation"] == base["normalisation"]
    assert not torch.equal(alone["state_dict"]["FC.weight"], taught["state_dict"]["FC.weight"])
    script(*RETRAIN, "--teacher=base", "--teacher_weight=0", check=True)
    labels_only = torch.load(ready / "checkpoints/again.t7", weights_only=True)
    for name, value in alone["state_dict"].items():
        torch.testing.assert_close(labels_only["state_dict"][name], value, rtol=1e-3, atol=1e-5)


def test_an_unfinished_training_is_not_resumed_with_other_channels_or_another_teacher(ready, script):
    (ready / "nbr_channels").mkdir()
    (ready / "nbr_channels/pruned.pickle").write_bytes(pickle.dumps(FULL))
    script(*RETRAIN, check=True)
    refused(script(*RETRAIN, "--teacher=base", "--resume"), "--teacher was None, now 'base'")
    widths = dict(TINY.full_widths, Conv_0=7)
    (ready / "nbr_channels/pruned.pickle").write_bytes(pickle.dumps(TINY.conv_channels(widths)))
    before = contents(ready)
    refused(script(*RETRAIN, "--resume"), "again.t7", "other channels")
    assert contents(ready) == before


def test_wrong_channels_and_teachers_are_one_line(ready, script):
    (ready / "nbr_channels").mkdir()
    (ready / "nbr_channels/pruned.pickle").write_bytes(pickle.dumps({k: v for k, v in FULL.items() if k != "Conv_0"}))
    before = contents(ready)
    refused(script(*RETRAIN), "nbr_channels/pruned.pickle", "Conv_0: missing")
    refused(script(*RETRAIN[:-2], "--channels=gone", "--save_file=x"), "nbr_channels/gone.pickle", "no such file")
    refused(script(*RETRAIN[:-2], "--teacher=gone", "--save_file=x"), "checkpoints/gone.t7", "no such checkpoint")
    refused(script(*RETRAIN[:-2], "--teacher=base", "--save_file=base"),
            "--save_file=base: would overwrite the teacher")
    assert contents(ready) == before
