"""Files that version 0.1.0 wrote are read, and its unfinished runs resumed.

recorded/version-0.1.0.zip holds a WideResNet-10-0.0625 trained on the digits (base), a training killed after its first
of three epochs (half), a pruning killed inside its second step (pruned), and the table, channels and model of them.
"""

import json
import zipfile

import pytest
import torch

from model.architectures import describe
from tests.helpers import ROOT, contents
from utils.common.channels import read_channels
from utils.deploy import metadata
from utils.latency.tables import latency_s, read_table
from utils.learning import checkpoint

NETWORK = describe("res", depth=10, width=0.0625)
SIZES = ["--depth=10", "--width=0.0625"]
EXACTLY = ["--precision=fp32", "--threads=1"]


@pytest.fixture
def recorded(tmp_path):
    with zipfile.ZipFile(ROOT / "tests/recorded/version-0.1.0.zip") as archive:
        archive.extractall(tmp_path)
    return tmp_path


def test_the_checkpoint_the_table_the_channels_and_the_model_are_read(recorded):
    content = checkpoint.load(recorded / "checkpoints/base.t7")
    assert checkpoint.build(content, recorded).network == NETWORK and content["epoch"] == 1
    table = read_table(recorded / "perf_tables/table.pickle", NETWORK)
    assert latency_s(NETWORK, NETWORK.full_widths, table) == pytest.approx(0.892e-3)
    widths = dict(NETWORK.full_widths, Conv_0=9, Conv_2_0_1=0)
    assert read_channels(recorded / "nbr_channels/narrow.pickle", NETWORK) == widths
    about = metadata.read(recorded / "model.tflite")
    assert (about.network, about.widths, about.quantize) == (NETWORK, NETWORK.full_widths, "none")


def test_the_pruning_goes_on_inside_its_second_step(recorded, script):
    before = (recorded / "history/pruned.unfinished.jsonl").read_text().splitlines()
    said = script("prune.py", "--base_model=base", "--perf_table=table", "--save_file=pruned", "--pruning_fact=0.4",
                  "--init_red_fact=3", "--short_term_fine_tune=4", "--resume", *EXACTLY, check=True).stdout
    done = [json.loads(line) for line in before if '"trial"' in line and '"step": 2' in line]
    assert len(done) == 2 and "step 1, " not in said and " step 2, score: 4 candidates" in said
    for record in done:  # not tried again at that rung
        section = said.split(" step 2, score: ")[1].split(" step ")[0]
        assert f"  {record['group']} " not in section
    history = (recorded / "history/pruned.jsonl").read_text().splitlines()
    adopted = [line for line in before if '"trial"' not in line]
    assert history[:len(adopted)] == adopted and json.loads(history[-1])["event"] == "end"
    assert json.loads(history[-1])["latency_s"] <= 0.6 * 0.892e-3


def test_the_training_goes_on_after_its_first_epoch(recorded, script):
    first = checkpoint.load(recorded / "checkpoints/half.t7")["error_history"]
    said = script("train.py", *SIZES, "--dataset=digits", "--epochs=3", "--save_file=half", "--resume", *EXACTLY,
                  check=True).stdout
    assert "epoch 1/3" not in said and "epoch 3/3" in said
    assert checkpoint.load(recorded / "checkpoints/half.t7")["error_history"][:1] == first


def test_its_network_is_retrained_from_its_channels(recorded, script):
    script("train.py", *SIZES, "--dataset=digits", "--epochs=1", "--channels=narrow", "--save_file=again", check=True)
    widths = torch.load(recorded / "checkpoints/again.t7", weights_only=True)["widths"]
    assert widths == dict(NETWORK.full_widths, Conv_0=9, Conv_2_0_1=0)


def test_its_model_is_measured_beside_its_table(recorded, script):
    before = contents(recorded)
    found = json.loads(script("compute_table.py", "--mode=measure", "--model=model.tflite", "--perf_table=table",
                              "--json", check=True).stdout)
    assert found["without_probe"]["predicted_s"] == pytest.approx(0.892e-3) if "without_probe" in found else (
        found["predicted_s"] == pytest.approx(0.892e-3))
    assert contents(recorded) == before
