"""compute_table.py --mode=measure: one model or several, beside what a table predicts for them."""

import json
import pickle

import pytest
import torchvision  # noqa: F401  brings Triton, which crashes where TensorFlow was loaded before it

from tests.helpers import TINY, TINY_FLAGS, arithmetic_table, described, refused
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


CRASHING = """
import os

class Interpreter:
    def __init__(self, num_threads, model_content=None, model_path=None):
        self.content = model_content or open(model_path, "rb").read()

    def allocate_tensors(self):
        pass

    def get_input_details(self):
        return []

    def invoke(self):
        if self.content.endswith(b"crash"):
            os.abort()
        if self.content.endswith(b"raise"):
            raise LookupError("no kernel for STABLEHLO_ADD")
        sum(range(2000))
"""


def test_a_model_that_crashes_the_runtime_does_not_take_the_others_along(tmp_path, process, monkeypatch):
    package = tmp_path / "packages/ai_edge_litert"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "interpreter.py").write_text(CRASHING)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    for name, end in (("a", b""), ("b", b"crash"), ("c", b"raise"), ("d", b"")):
        (tmp_path / f"{name}.tflite").write_bytes(described() + end)
    measure = ["compute_table.py", "--mode=measure", "--patience=0", "--num_measures=4"]
    models = [f"{name}.tflite" for name in "abcd"]
    found = process(*measure, "--model", *models)
    assert found.returncode == 2
    assert found.stderr.startswith("error: 2 of 4 models failed: b.tflite: could not be timed in 3 attempts: ")
    assert "the runtime crashed: signal SIGABRT" in found.stderr and found.stderr.count("\n") == 1
    assert "c.tflite: could not be timed in 3 attempts: LiteRT: no kernel for STABLEHLO_ADD" in found.stderr
    lines = found.stdout.splitlines()
    assert lines[0].startswith("2 models, 1 thread(s) of ai_edge_litert") and len(lines) == 3
    assert "a.tflite" in lines[1] and "d.tflite" in lines[2]
    found = process(*measure, "--json", "--model", *models)
    assert found.returncode == 2
    assert set(json.loads(found.stdout)["models"]) == {"a.tflite", "d.tflite"}
    assert set(json.loads(found.stdout)["failed"]) == {"b.tflite", "c.tflite"}
    found = process(*measure, "--model", "b.tflite")
    assert found.returncode == 2 and found.stderr.count("\n") == 1 and found.stdout == ""
