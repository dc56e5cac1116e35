"""Timing in this process: real runs of LiteRT, and what no runtime can load."""

import sys

import pytest

from model.architectures import describe
from model.tflite_net import variant
from utils.common.errors import UserError
from utils.latency import runners
from utils.latency.runners import BenchmarkError, LiteRTRunner, OnnxRunner


def model(key, cin, cout):
    return variant(describe("res", depth=10, width=1.0).tables[key], cin, cout)


def test_litert_times_every_run_of_a_file_and_of_bytes(tmp_path):
    runner, path = LiteRTRunner(num_threads=1), tmp_path / "x.tflite"
    path.write_bytes(model("No_Stride_1", 16, 16))
    for source in (path, model("Join_1", 16, 16)):
        timer = runner.open(source).time
        for runs in (5, 2):
            seconds = timer(runs)
            assert len(seconds) == runs and all(1e-7 < s < 10 for s in seconds)
    assert runner.describe()["runtime"] == "ai_edge_litert"
    assert runner.describe()["version"].startswith("2.")


@pytest.mark.parametrize("keep", [0, 10, 300, 0.5, 0.9])
def test_litert_refuses_a_torn_file(tmp_path, keep):
    path, raw = tmp_path / "x.tflite", model("No_Stride_1", 16, 16)
    path.write_bytes(raw[:int(keep * len(raw)) if keep < 1 else keep])
    with pytest.raises(BenchmarkError, match="LiteRT: "):
        LiteRTRunner(1).open(path)


def test_onnx_runtime_refuses_what_is_no_model(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"no model")
    for model in (tmp_path / "a.onnx", b"no model", tmp_path / "absent.onnx"):
        with pytest.raises(BenchmarkError, match="ONNX Runtime: "):
            OnnxRunner(1).open(model)


def test_no_runtime_says_what_to_install(monkeypatch):
    for module in ("ai_edge_litert", "ai_edge_litert.interpreter", "tflite_runtime", "tflite_runtime.interpreter"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match="requirements-pi.txt, or requirements-pi32.txt with 32-bit "
                                        "Python.*benchmark_model"):
        runners.interpreter_class()
