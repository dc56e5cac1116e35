"""compute_table.py --mode=measure: one model or several, beside what a table predicts for them."""

import json
import pickle

import pytest
import torchvision  # noqa: F401  brings Triton, which crashes where TensorFlow was loaded before it

from tests.helpers import TINY, TINY_FLAGS, arithmetic_table, refused
from utils.latency.tables import latency_s


def test_a_model_of_another_program_is_predicted_by_its_channels(ready, script):
    from model import tflite_net
    widths = dict(TINY.full_widths, Conv_0=9, Conv_2_0_1=0)
    weights = tflite_net.random_weights(TINY, widths)
    (ready / "m.tflite").write_bytes(tflite_net.write(TINY, widths, weights))
    (ready / "nbr_channels").mkdir()
    (ready / "nbr_channels/c.pickle").write_bytes(pickle.dumps(TINY.conv_channels(widths)))
    measure = ["compute_table.py", "--mode=measure", "--model=m.tflite", "--perf_table=table", *TINY_FLAGS, "--json"]
    refused(script(*measure), "m.tflite", "name its --channels")
    found = script(*measure, "--channels=c", check=True)
    assert "taken on trust" in found.stderr
    assert json.loads(found.stdout)["predicted_s"] == pytest.approx(latency_s(TINY, widths, arithmetic_table(TINY)))
