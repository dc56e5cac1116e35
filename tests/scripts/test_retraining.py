"""train.py --channels and --teacher: what pruning left is rebuilt, taught, and not mixed up."""

import pickle

import torch
from PIL import Image

from tests.helpers import PRUNE, TINY, TINY_FLAGS, contents, refused, saved_anew
from utils.learning import training

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
    grey = torch.load(ready / "checkpoints/base.t7", weights_only=True)
    grey["classes"] = [*"012345678", "nine"]
    saved_anew(ready / "checkpoints/other.t7", grey)
    before = contents(ready)
    refused(script(*RETRAIN[:-2], "--teacher=other", "--save_file=x"),
            "other.t7: was trained on the class nine, where the images have 9")
    assert contents(ready) == before


TRAIN = ["train.py", *TINY_FLAGS, "--dataset=digits", "--save_file=net"]


def test_one_that_ends_in_its_first_epoch_goes_on_and_is_not_taken_for_an_older_one(script, tmp_path, monkeypatch):
    script(*TRAIN, "--epochs=1", "--seed=1", check=True)  # an older one of that name
    older = (tmp_path / "checkpoints/net.t7").read_bytes()
    script(*TRAIN[:-1], "--epochs=2", "--save_file=whole", check=True)
    monkeypatch.setattr(training, "train_epoch", interrupted)
    assert script(*TRAIN, "--epochs=2").returncode == 130
    assert (tmp_path / "checkpoints/net.t7").read_bytes() == older
    monkeypatch.undo()
    refused(script(*TRAIN, "--epochs=3", "--resume"), "net.unfinished.t7: cannot resume, it was made with other flags")
    script(*TRAIN, "--epochs=2", "--resume", check=True)
    found, whole = (torch.load(tmp_path / f"checkpoints/{name}.t7", weights_only=True) for name in ("net", "whole"))
    assert found["error_history"] == whole["error_history"] and len(found["error_history"]) == 2
    assert all(torch.equal(found["state_dict"][k], v) for k, v in whole["state_dict"].items())
    monkeypatch.setattr(training, "train_epoch", interrupted)
    assert script(*TRAIN, "--epochs=2").returncode == 130
    monkeypatch.undo()
    script(*TRAIN, "--epochs=1", check=True)  # nothing was learned, so nothing is lost
    assert not (tmp_path / "checkpoints/net.unfinished.t7").exists()


def interrupted(*_):
    raise KeyboardInterrupt


def test_it_does_not_go_on_with_other_images(script, tmp_path, monkeypatch):
    for shade, folder in enumerate(("these", "others", "renamed")):
        for part in ("train", "test"):
            for label, name in enumerate(("cat", "wolf" if folder == "renamed" else "dog")):
                (tmp_path / folder / part / name).mkdir(parents=True)
                for number in range(4):
                    Image.new("RGB", (8, 8), (50 * shade, 100 * label, 9 * number)).save(
                        tmp_path / folder / part / name / f"{number}.png")
    flags = ["train.py", *TINY_FLAGS, "--epochs=2", "--batch_size=2", "--save_file=net", "--holdout_prop=0.25"]
    monkeypatch.setattr(training, "train_epoch", interrupted)
    assert script(*flags, "--data_loc=these").returncode == 130
    monkeypatch.undo()
    before = contents(tmp_path)
    refused(script(*flags, "--data_loc=others", "--resume"), "net.t7: began with other images: their mean was 0.0000")
    refused(script(*flags, "--data_loc=renamed", "--resume"), "net.t7: was trained on the class dog, where the images")
    assert contents(tmp_path) == before
    (tmp_path / "these").rename(tmp_path / "moved")
    script(*flags, "--data_loc=moved", "--resume", check=True)
