"""Channel files: they rebuild the very widths, published ones too, and what is wrong in one is named."""

import json
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.architectures import describe
from tests.conftest import NETWORKS
from tests.test_latency_table import Touch, arithmetic_table
from tests.test_scripts import PRUNE, TINY, TINY_FLAGS, contents, ready, refused, trained  # noqa: F401 (fixtures)
from utils import channels
from utils.errors import UserError
from utils.latency_table import latency_s

RETRAIN = ["train.py", *TINY_FLAGS, "--dataset=digits", "--epochs=2", "--channels=pruned", "--save_file=again"]


@pytest.mark.parametrize("name", sorted(NETWORKS))
@given(data=st.data())
def test_channels_give_their_widths_back(name, data):
    network = NETWORKS[name]
    widths = {g.name: data.draw(st.integers(0 if g.removable else 1 if g.prunable else g.width, g.width)) for g in network.groups}
    assert network.widths_of_channels(network.conv_channels(widths)) == widths


def test_the_published_file_is_a_wide_resnet_40_2(shared):
    network = describe("res", depth=40, width=2.0)
    path = shared / "data/reference/res-40-2-pruned.pickle"
    widths = channels.read_channels(path, network)
    assert network.conv_channels(widths) == pickle.loads(path.read_bytes())
    assert (widths["Conv_1_0_2"], widths["Conv_3_0_2"], widths["Conv_3_5_1"]) == (25, 97, 128)


FULL = TINY.conv_channels(TINY.full_widths)


@pytest.mark.parametrize("change, words", [
    ({"Conv_9_9_9": 3}, "Conv_9_9_9: no convolution of this network"), ({"Conv_2_0_1": None}, "Conv_2_0_1: missing"),
    ({"Conv_1_0_2": 1}, "Skip_1: 2 channels, but Conv_1_0_2"),
    ({"Skip_2": 3}, "Skip_2: 3 channels, but Conv_2_0_2, which writes the same stream, has 4"), ({"Conv_1_0_1": 99}, "expected 0 to 2 channels, found 99"),
    ({"Conv_1_0_1": 0}, "Conv_1_0_2: expected 0 channels"), ({"Conv_0": 0}, "Conv_0: 0 channels, expected at least 1"), ({"Conv_0": 2.5}, "found 2.5"),
    ({"Conv_0": True}, "found True"), ({"Conv_0": -1}, "found -1")])
def test_a_wrong_file_is_named_with_its_layer(tmp_path, change, words):
    content = {k: v for k, v in {**FULL, **change}.items() if v is not None}
    (tmp_path / "c.pickle").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match="c.pickle: ") as found:
        channels.read_channels(tmp_path / "c.pickle", TINY)
    assert words in str(found.value)


def test_a_file_that_would_execute_is_refused(tmp_path):
    (tmp_path / "c.pickle").write_bytes(pickle.dumps({"Conv_0": Touch(tmp_path / "touched")}))
    with pytest.raises(UserError, match="nothing in it was run"):
        channels.read_channels(tmp_path / "c.pickle", TINY)
    assert not (tmp_path / "touched").exists()


# --- train.py --channels, --teacher ----------------------------------------------------------------------------

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
    refused(script(*RETRAIN[:-2], "--teacher=base", "--save_file=base"), "--save_file=base: would overwrite the teacher")
    assert contents(ready) == before


def test_a_model_of_another_program_is_predicted_by_its_channels(ready, script):
    from utils import tflite_writer
    widths = dict(TINY.full_widths, Conv_0=9, Conv_2_0_1=0)
    weights = tflite_writer.random_weights(TINY, widths)
    (ready / "m.tflite").write_bytes(tflite_writer.write(TINY, widths, weights))
    (ready / "nbr_channels").mkdir()
    (ready / "nbr_channels/c.pickle").write_bytes(pickle.dumps(TINY.conv_channels(widths)))
    measure = ["compute_table.py", "--mode=measure", "--model=m.tflite", "--perf_table=table", *TINY_FLAGS, "--json"]
    refused(script(*measure), "m.tflite", "name its --channels")
    found = script(*measure, "--channels=c", check=True)
    assert "taken on trust" in found.stderr
    assert json.loads(found.stdout)["predicted_s"] == pytest.approx(latency_s(TINY, widths, arithmetic_table(TINY)))
