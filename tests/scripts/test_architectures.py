"""Every registered architecture goes all the way: trained, measured, pruned, retrained, exported, predicted."""

import json

import pytest
import torch

from model.architectures import ARCHITECTURES, describe
from utils.deploy import metadata


@pytest.mark.slow
@pytest.mark.parametrize("net", ARCHITECTURES)
def test_from_training_to_a_prediction_beside_the_measurement(script, process, tmp_path, net):
    arguments = {**ARCHITECTURES[net].EXAMPLES[-1], **({"width": 0.25} if "width" in ARCHITECTURES[net].FLAGS else {})}
    flags, digits = [f"--{k}={v}" for k, v in {"net": net, **arguments}.items()], ["--dataset=digits", "--epochs=1"]
    script("train.py", *flags, *digits, "--save_file=base", check=True)
    script("compute_table.py", *flags, "--mode=build", "--save_file=table", "--num_measures=4", "--patience=0",
           check=True)
    script("prune.py", "--base_model=base", "--perf_table=table", "--save_file=pruned", "--pruning_fact=0.4",
           "--init_red_fact=3", "--short_term_fine_tune=2", "--batch_size=64", "--removals=always", check=True)
    script("train.py", *flags, *digits, "--channels=pruned", "--save_file=again", check=True)
    done = process("export.py", "--checkpoint=again", "--output=a.tflite", "--perf_table=table", "--patience=0")
    assert done.returncode == 0 and "the same top class" in done.stdout and "predicted " in done.stdout, done.stderr
    network = describe(net, **arguments)
    widths = torch.load(tmp_path / "checkpoints/pruned.t7", weights_only=True)["widths"]
    assert metadata.read(tmp_path / "a.tflite") == metadata.Description(network, widths, "none")
    found = json.loads(script("compute_table.py", "--mode=measure", "--model=a.tflite", "--perf_table=table", "--json",
                              check=True).stdout)
    assert found["predicted_s"] > 0 and found["measured_s"] > 0
