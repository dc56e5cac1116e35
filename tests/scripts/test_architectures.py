"""Registered architectures go all the way: trained, measured, pruned, retrained, exported, predicted."""

import json

import pytest
import torch

from model.architectures import ARCHITECTURES, describe
from utils.deploy import metadata


@pytest.mark.slow
@pytest.mark.parametrize("net", [net for net in ARCHITECTURES if net != "res"])  # which other tests prune
def test_it_is_trained_on_the_digits_and_pruned_by_macs(script, tmp_path, net):
    arguments = ARCHITECTURES[net].EXAMPLES[-1]
    script("train.py", *(f"--{k}={v}" for k, v in {"net": net, **arguments}.items()), "--dataset=digits", "--epochs=1",
           "--save_file=base", check=True)
    script("prune.py", "--base_model=base", "--perf_table=macs", "--save_file=pruned", "--pruning_fact=0.3",
           "--init_red_fact=4", "--short_term_fine_tune=1", "--batch_size=64", "--removals=always", check=True)
    content, network = torch.load(tmp_path / "checkpoints/pruned.t7", weights_only=True), describe(net, **arguments)
    widths = content["widths"]
    assert content["arguments"] == network.arguments  # --img_size among them
    assert network.multiply_adds(widths) <= 0.7 * network.multiply_adds(network.full_widths)


@pytest.mark.slow
@pytest.mark.parametrize("net", ["res", "resnet"])  # a MobileNetV2, deep and with 1,280 channels, takes long to measure
def test_from_training_to_a_prediction_beside_the_measurement(script, process, tmp_path, net):
    arguments = {**ARCHITECTURES[net].EXAMPLES[-1], "width": 0.25}
    network = describe(net, **arguments)
    flags, digits = [f"--{k}={v}" for k, v in {"net": net, **arguments}.items()], ["--dataset=digits", "--epochs=1"]
    script("train.py", *flags, *digits, "--save_file=base", check=True)
    script("compute_table.py", *flags, "--mode=build", "--save_file=table", "--num_measures=4", "--patience=0",
           check=True)
    script("prune.py", "--base_model=base", "--perf_table=table", "--save_file=pruned", "--pruning_fact=0.4",
           "--init_red_fact=3", "--short_term_fine_tune=2", "--batch_size=64", "--removals=always", check=True)
    script("train.py", *flags, *digits, "--channels=pruned", "--save_file=again", check=True)
    done = process("export.py", "--checkpoint=again", "--output=a.tflite", "--perf_table=table", "--patience=0")
    assert done.returncode == 0 and "the same top class" in done.stdout and "predicted " in done.stdout, done.stderr
    widths = torch.load(tmp_path / "checkpoints/pruned.t7", weights_only=True)["widths"]
    assert metadata.read(tmp_path / "a.tflite") == metadata.Description(network, widths, "none")
    found = json.loads(script("compute_table.py", "--mode=measure", "--model=a.tflite", "--perf_table=table", "--json",
                              check=True).stdout)
    assert found["predicted_s"] > 0 and found["measured_s"] > 0
