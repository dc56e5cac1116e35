"""Exported networks against torch, what a file says of itself, and a model timed beside a table's prediction."""

import json
import math
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision  # noqa: F401  brings Triton, which crashes where TensorFlow was loaded before it
from ai_edge_litert.interpreter import Interpreter

import compute_table
import export
from model import surgery
from model.architectures import describe
from model.tflite_net import variant
from tests.helpers import (
    NOT_FOR_TRAINING,
    NOT_ON_A_PI,
    ROOT,
    arithmetic_table,
    as_code,
    blocked,
    described,
    environment,
    plain_model,
    saved_anew,
)
from utils.common.errors import UserError
from utils.deploy import convert, metadata
from utils.latency import model_timing
from utils.latency.entries import probe_entry
from utils.latency.runners import LiteRTRunner
from utils.latency.table_files import write_pair
from utils.latency.tables import latency_s
from utils.learning import checkpoint, data
from utils.learning.settings import Data
from utils.pruning import scores

NETWORK = describe("res", depth=10, width=0.5)

TABLE = arithmetic_table(NETWORK)

NARROWER = {"Conv_0": 11, "Conv_1_0_1": 5, "Conv_2_0_2": 13, "Conv_3_0_1": 21}

REMOVED = {"Conv_2_0_1": 0, "Conv_3_0_1": 0}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A network trained on the digits, a narrower one of it, and one without two of its blocks."""
    folder = tmp_path_factory.mktemp("trained")
    found = subprocess.run([sys.executable, str(ROOT / "train.py"), "--depth=10", "--width=0.5", "--dataset=digits",
                            "--epochs=4", "--batch_size=32", "--learning_rate=0.05", "--lr_type=cosine",
                            "--save_file=full"],
                           cwd=folder, env=environment(), capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    content = checkpoint.load(folder / "checkpoints/full.t7")
    model = checkpoint.build(content, folder)
    more = {k: content[k] for k in ("epoch", "error_history", "flags", "holdout_prop", "classes")}
    for name, change in (("narrower", NARROWER), ("removed", REMOVED)):
        keep = {g: surgery.best_channels(scores.filter_norms(model, g), width) for g, width in change.items()}
        checkpoint.save(folder / f"checkpoints/{name}.t7", surgery.slice_channels(model, keep),
                        checkpoint.normalisation_of(content), **more)
    return folder / "checkpoints"


@pytest.fixture
def run(monkeypatch, tmp_path, checkpoints, capsys):
    """Run a script's main in tmp_path, timing only briefly: run(export, "--flag") -> what it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(model_timing, "SECONDS", 0.05)
    (tmp_path / "checkpoints").symlink_to(checkpoints)
    write_pair(tmp_path / "table.pickle", TABLE, {})

    def run_main(module, *flags):
        brief = [] if any(f.startswith("--patience") for f in flags) else ["--patience=0"]
        monkeypatch.setattr(sys, "argv", [module.__name__, *flags, *brief])
        capsys.readouterr()
        module.main()
        return capsys.readouterr().out
    return run_main


@pytest.fixture(scope="module")
def digits():
    return data.load_images(Data("digits", "", 0), (3, 32, 32))


def torch_logits(path, pixels):
    """What the network in a checkpoint gives for uint8 images [N, 3, 32, 32]."""
    content = checkpoint.load(path)
    with torch.inference_mode():
        return checkpoint.build(content, path).eval()(checkpoint.normalisation_of(content)(pixels)).numpy()


def outputs(interpreter, pixels):
    run = interpreter.get_signature_runner("serving_default")
    kind = run.get_input_details()["image"]["dtype"]
    images = pixels.permute(0, 2, 3, 1).numpy().astype(kind)
    return np.concatenate([run(image=image[None])["logits"] for image in images])


# --- outputs against torch -------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["full", "narrower", "removed"])
def test_float32_computes_what_torch_does(run, checkpoints, digits, tmp_path, name):
    printed = run(export, f"--checkpoint={name}", "--output=new/model.tflite", "--num_test_images=40",
                  "--perf_table=./table.pickle")
    pixels, path = digits.test.pixels[:50], tmp_path / "new/model.tflite"
    expected = torch_logits(checkpoints / f"{name}.t7", pixels)
    assert np.ptp(expected) > 1  # a network that says something
    for interpreter in (Interpreter(model_path=str(path)), Interpreter(model_content=path.read_bytes())):
        np.testing.assert_allclose(outputs(interpreter, pixels), expected, atol=1e-4, rtol=0)
    assert interpreter.get_signature_list() == {"serving_default": {"inputs": ["image"], "outputs": ["logits"]}}
    for details, shape in ((interpreter.get_input_details(), [1, 32, 32, 3]),
                           (interpreter.get_output_details(), [1, 10])):
        assert [(list(d["shape"]), d["dtype"]) for d in details] == [(shape, np.float32)]
    widths = checkpoint.load(checkpoints / f"{name}.t7")["widths"]
    assert f"predicted {latency_s(NETWORK, widths, TABLE) * 1e3:.4f} ms" in printed and "measured " in printed
    assert metadata.read(path) == metadata.Description(NETWORK, widths, "none")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["full", "narrower", "removed"])
def test_int8_computes_nearly_what_torch_does(run, checkpoints, digits, tmp_path, name):
    printed = run(export, f"--checkpoint={name}", "--output=int8.tflite", "--quantize=int8", "--num_test_images=100",
                  "--min_agreement=85", "--perf_table=./table.pickle")
    interpreter, pixels = Interpreter(model_path=str(tmp_path / "int8.tflite")), digits.test.pixels[:100]
    expected, found = torch_logits(checkpoints / f"{name}.t7", pixels), outputs(interpreter, pixels)
    assert (expected.argmax(1) == found.argmax(1)).mean() >= 0.85  # of networks that were hardly trained
    assert 1e-4 < np.abs(expected - found).max() < 0.25 * np.ptp(expected)
    entry, = interpreter.get_input_details()
    assert entry["dtype"] == np.uint8 and entry["quantization"] == (1.0, 0)  # pixels as they are
    parameters = NETWORK.parameter_count(metadata.read(tmp_path / "int8.tflite").widths)
    assert (tmp_path / "int8.tflite").stat().st_size < 2 * parameters + 25_000
    assert "predicted" not in printed  # by a table of float32 layers
    assert all(1e-7 < s < 1 for s in LiteRTRunner(1).open(tmp_path / "int8.tflite").time(3))


@pytest.mark.slow
@pytest.mark.parametrize("quantize", ["float16", "dynamic"])
def test_smaller_weights(run, checkpoints, digits, tmp_path, quantize):
    run(export, "--checkpoint=full", "--output=a.tflite", f"--quantize={quantize}", "--num_test_images=100")
    pixels = digits.test.pixels[:100]
    found = outputs(Interpreter(model_path=str(tmp_path / "a.tflite")), pixels)
    expected = torch_logits(checkpoints / "full.t7", pixels)
    assert (expected.argmax(1) == found.argmax(1)).mean() >= 0.95 and np.abs(expected - found).max() > 1e-4
    assert (tmp_path / "a.tflite").stat().st_size < 2.5 * NETWORK.parameter_count(NETWORK.full_widths) + 25_000


@pytest.mark.slow
def test_tensorflows_interpreter_reads_it_too(run, checkpoints, digits, tmp_path):
    import tensorflow as tf
    run(export, "--checkpoint=removed", "--output=a.tflite", "--num_test_images=5")
    raw, pixels = (tmp_path / "a.tflite").read_bytes(), digits.test.pixels[:5]
    np.testing.assert_allclose(outputs(tf.lite.Interpreter(model_content=raw), pixels),
                               torch_logits(checkpoints / "removed.t7", pixels), atol=1e-4, rtol=0)


@pytest.mark.slow
def test_onnx(script, checkpoints, digits, tmp_path):
    """In a process of its own: torch's exporter and TensorFlow do not live in one."""
    import onnxruntime
    found = script("export.py", f"--checkpoint={checkpoints / 'removed.t7'}", "--output=a.onnx", "--patience=0",
                   check=True)
    assert found.stderr == ""
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx")
    pixels = digits.test.pixels[:7]
    expected = torch_logits(checkpoints / "removed.t7", pixels)
    for count in (1, 7):  # any number of images
        found, = session.run(["logits"], {"image": pixels[:count].float().numpy()})
        np.testing.assert_allclose(found, expected[:count], atol=1e-4, rtol=0)
    about = session.get_modelmeta().custom_metadata_map
    assert about["labels"].split() == list("0123456789")
    raw = (tmp_path / "a.onnx").read_bytes()  # no file of this machine is named in it
    assert str(ROOT).encode() not in raw and b"torch_net.py" not in raw and b"site-packages" not in raw
    assert json.loads(about["network"])["network"] == NETWORK.arguments


# --- what is refused -------------------------------------------------------------------------------------------

def test_outputs_that_differ_are_not_written(run, monkeypatch, tmp_path):
    """The bytes of a network with other weights, converted in place of those of the checkpoint."""
    (tmp_path / "a.tflite").write_bytes(b"what stood there")
    real = convert.tflite_bytes

    def another(model, *rest):
        with torch.no_grad():
            model.FC.bias += torch.arange(10) * 0.01
        return real(model, *rest)
    monkeypatch.setattr(convert, "tflite_bytes", another)
    with pytest.raises(UserError,
                       match=r"a.tflite: its outputs differ from torch's by up to 0\.09.*nothing was written"):
        run(export, "--checkpoint=full", "--output=a.tflite", "--num_test_images=5")
    assert (tmp_path / "a.tflite").read_bytes() == b"what stood there"


def without_data(folder, checkpoints):
    content = torch.load(checkpoints / "full.t7", weights_only=True)
    content["flags"].update(dataset="cifar10", data_loc=str(folder / "nowhere"))
    saved_anew(folder / "moved.t7", content)


def test_without_the_data(run, tmp_path, checkpoints):
    without_data(tmp_path, checkpoints)
    for quantize in ("int8", "dynamic"):
        with pytest.raises(UserError,
                           match=f"--quantize={quantize}: needs the images, training ones.*nowhere: neither train"):
            run(export, "--checkpoint=./moved.t7", "--output=a.tflite", f"--quantize={quantize}")
    with pytest.raises(UserError, match="elsewhere: neither train"):
        run(export, "--checkpoint=./moved.t7", "--output=a.tflite", "--data_loc=elsewhere")
    with pytest.raises(UserError, match="elsewhere: neither train"):  # also where the network learned digits
        run(export, f"--checkpoint={checkpoints / 'full.t7'}", "--output=a.tflite", "--data_loc=elsewhere")
    assert not (tmp_path / "a.tflite").exists()
    printed = run(export, "--checkpoint=./moved.t7", "--output=a.tflite")
    assert "comparing on random images" in printed and "test error  unknown" in printed
    assert json.loads(zipfile.ZipFile("a.tflite").read("network.json"))["test_error_pct"] is None


@pytest.mark.parametrize("flags, words", [
    (["--output=model.pb"], "expected a name ending in .tflite or .onnx"),
    (["--output=a.onnx", "--format=tflite"], "expected a name ending in .tflite"),
    (["--output=checkpoints/full.t7", "--format=tflite"], "full.t7: expected a name ending in .tflite"),
    (["--output=a.onnx", "--quantize=int8"], "--quantize: only with --format=tflite"),
    (["--output=a.onnx", "--perf_table=./table.pickle"], "--perf_table: only with --format=tflite"),
    (["--output=checkpoints", "--format=tflite"], "checkpoints: a folder"),
    (["--checkpoint=absent"], "checkpoints/absent.t7: no such checkpoint"),
    (["--perf_table=absent"], "perf_tables/absent.pickle: no such file"),
    (["--output=table.pickle/a.tflite"], "table.pickle: cannot write there")])
def test_export_refuses(run, tmp_path, flags, words):
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(UserError, match=words):
        run(export, *([] if any(f.startswith("--checkpoint") for f in flags) else ["--checkpoint=full"]), *flags)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.slow
def test_from_the_shell(checkpoints, tmp_path):
    """What a user sees: no line of a converter, nothing left behind but the file."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "checkpoints").symlink_to(checkpoints)
    found = subprocess.run([sys.executable, str(ROOT / "export.py"), "--checkpoint=full", "--patience=0"], cwd=tmp_path,
                           capture_output=True, text=True, timeout=300, env=environment(TMPDIR=str(tmp_path / "tmp")))
    assert found.returncode == 0 and found.stderr == "", found.stderr
    heads = [line.split()[0] for line in found.stdout.splitlines() if "noisy" not in line]
    assert heads == ["checkpoints/full.t7:", "test", "outputs", "measured", "on", "full.tflite:"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoints", "full.tflite", "tmp"]
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.slow
def test_a_missing_package_is_one_line_and_help_needs_none(checkpoints, tmp_path):
    (tmp_path / "checkpoints").symlink_to(checkpoints)
    found = blocked(["tensorflow", "keras"], as_code("export.py"), tmp_path, ["--checkpoint=full"])
    assert found.returncode == 2 and found.stderr.count("\n") == 1 and "tensorflow" in found.stderr, found.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoints"]
    shown = blocked(NOT_ON_A_PI + NOT_FOR_TRAINING + ["onnx", "onnxruntime"], as_code("export.py"), tmp_path,
                    ["--help"])
    assert shown.returncode == 0 and "--quantize" in shown.stdout


def test_class_names_travel(run, tmp_path, checkpoints):
    assert checkpoint.load(checkpoints / "full.t7")["classes"] == list("0123456789")
    content = torch.load(checkpoints / "full.t7", weights_only=True)
    for odd, words in (({"classes": ["one"]}, "has 1 class names for 10 classes"),
                       ({"classes": [1]}, "classes or flags"),
                       ({"normalisation": {"mean": [math.nan] * 3, "std": [1.0] * 3}}, "normalisation, error_history"),
                       ({"flags": {**content["flags"], 1: 2}}, "classes or flags")):
        saved_anew(tmp_path / "odd.t7", {**content, **odd})
        with pytest.raises(UserError, match=words):
            run(export, "--checkpoint=./odd.t7", "--output=a.tflite")
    assert not (tmp_path / "a.tflite").exists()


# --- compute_table.py --mode=measure ---------------------------------------------------------------------------

def test_measured_beside_predicted(run, tmp_path):
    (tmp_path / "a.tflite").write_bytes(described())
    expected = latency_s(NETWORK, plain_model(REMOVED)[1], TABLE)
    printed = run(compute_table, "--mode=measure", "--model=a.tflite", "--perf_table=./table.pickle")
    assert f"predicted {expected * 1e3:.4f} ms" in printed and "depth 10" in printed
    found = json.loads(run(compute_table, "--mode=measure", "--model=a.tflite", "--perf_table=./table.pickle",
                           "--json"))
    assert found["predicted_s"] == pytest.approx(expected) and 1e-6 < found["measured_s"] <= found["high_s"] < 1
    assert found["error"] == pytest.approx(expected / found["measured_s"] - 1)
    assert found["threads"] == 1 and found["items"] >= 4


def test_the_prediction_is_for_the_machine_as_fast_as_it_is(run, tmp_path):
    """A table whose note says what the probe took then: the ratio to now scales the prediction."""
    (tmp_path / "a.tflite").write_bytes(described())
    then_s = min(LiteRTRunner(1).open(variant(*probe_entry(NETWORK))).time(200)) / 1.1
    write_pair(tmp_path / "table.pickle", TABLE, {"probe": {"usual_s": then_s}})
    found = json.loads(run(compute_table, "--mode=measure", "--model=a.tflite", "--perf_table=./table.pickle",
                           "--json"))
    ratio = found["probe_now_over_then"]
    scale = ratio if 1 / 1.3 < ratio < 1.3 else 1  # a neighbour on the machine may come between the two
    assert ratio > 0 and found["predicted_s"] == pytest.approx(scale * found["without_probe"]["predicted_s"])
    write_pair(tmp_path / "table.pickle", TABLE, {"probe": {"usual_s": then_s / 10}})
    printed = run(compute_table, "--mode=measure", "--model=a.tflite", "--perf_table=./table.pickle")
    assert "times as long as when the table was measured: another machine" in printed
    assert f"predicted {found['without_probe']['predicted_s'] * 1e3:.4f} ms" in printed


def test_several_are_timed_together(run, tmp_path):
    (tmp_path / "a.tflite").write_bytes(described())
    (tmp_path / "b.tflite").write_bytes(plain_model()[0])
    expected = latency_s(NETWORK, plain_model(REMOVED)[1], TABLE)
    found = json.loads(run(compute_table, "--mode=measure", "--model", "a.tflite", "b.tflite", "--json"))
    assert set(found["models"]) == {"a.tflite", "b.tflite"} and found["threads"] == 1 and found["device"]
    assert all(0 < m["measured_s"] < 1 and m["predicted_s"] is None for m in found["models"].values())
    with pytest.raises(UserError, match="b.tflite: has no network.json in it"):
        run(compute_table, "--mode=measure", "--model", "a.tflite", "b.tflite", "--perf_table=./table.pickle")
    (tmp_path / "c.tflite").write_bytes(described())
    write_pair(tmp_path / "table.pickle", TABLE, {"probe": {"usual_s": 1e-9}})  # of another machine: it scales nothing
    printed = run(compute_table, "--mode=measure", "--model", "a.tflite", "c.tflite", "--perf_table=./table.pickle")
    assert printed.count(f"predicted {expected * 1e3:.4f} ms (") == 2 and "the probe takes " in printed
    other = describe("res", depth=10, width=0.25)
    for name in ("d", "e"):
        (tmp_path / f"{name}.tflite").write_bytes(described(network=other.arguments, widths=other.full_widths))
    printed = run(compute_table, "--mode=measure", "--model", "d.tflite", "a.tflite", "--perf_table=./table.pickle")
    assert printed.count("predicted") == 1 and printed.count("measured ") == 2
    with pytest.raises(UserError,
                       match="d.tflite: not predicted: .*table.pickle: not a table of net res, depth 10, width 0.25"):
        run(compute_table, "--mode=measure", "--model", "d.tflite", "e.tflite", "--perf_table=./table.pickle")
    with pytest.raises(UserError, match="gone.tflite: no such file"):
        run(compute_table, "--mode=measure", "--model", "a.tflite", "gone.tflite")


def test_any_model_is_timed_but_only_described_ones_predicted(run, tmp_path):
    (tmp_path / "a.tflite").write_bytes(plain_model()[0])
    printed = run(compute_table, "--mode=measure", "--model=a.tflite")
    assert "a model without a description" in printed and "measured" in printed and "predicted" not in printed
    with pytest.raises(UserError, match="a.tflite: has no network.json in it"):
        run(compute_table, "--mode=measure", "--model=a.tflite", "--perf_table=./table.pickle")


@pytest.mark.parametrize("content, words", [
    (None, "a.tflite: no such file"), (b"", "not a .tflite model"), (b"PK\x03\x04 and so on", "not a .tflite model"),
    (b"\x1c\x00\x00\x00TFL3" + bytes(90), "could not be timed in 3 attempts: LiteRT"),
    (described()[:3000], "could not be timed in 3 attempts: LiteRT")], ids=["absent", "empty", "zip", "zeros", "torn"])
def test_measure_refuses(run, tmp_path, content, words):
    if content is not None:
        (tmp_path / "a.tflite").write_bytes(content)
    with pytest.raises(UserError, match=words):
        run(compute_table, "--mode=measure", "--model=a.tflite")
    with pytest.raises(UserError, match="--model is missing: --mode=measure needs it"):
        run(compute_table, "--mode=measure")


def test_another_networks_table_is_refused(run, tmp_path):
    (tmp_path / "a.tflite").write_bytes(described())
    write_pair(tmp_path / "table.pickle", arithmetic_table(describe("res", depth=10, width=0.25)), {})
    with pytest.raises(UserError, match="table.pickle: not a table of net res, depth 10, width 0.5"):
        run(compute_table, "--mode=measure", "--model=a.tflite", "--perf_table=./table.pickle")


@pytest.mark.slow
def test_a_pi_measures_with_numpy_and_the_binary_alone(tmp_path):
    (tmp_path / "a.tflite").write_bytes(described())
    write_pair(tmp_path / "table.pickle", TABLE, {"threads": 3})
    tool = tmp_path / "benchmark_model"
    tool.write_text(f"#!/bin/sh\necho $* >> {tmp_path}/asked\n"
                    "echo 'count=11 first=5 avg=2000'\necho 'in us: no stats: 2000'\n")
    tool.chmod(0o755)
    found = blocked(NOT_ON_A_PI + NOT_FOR_TRAINING, as_code("compute_table.py"), tmp_path,
                    ["--mode=measure", "--model=a.tflite", "--perf_table=./table.pickle",
                     f"--benchmark_lite_loc={tool}"])
    assert found.returncode == 0, found.stderr
    assert "measured  2.0000 ms" in found.stdout and "predicted " in found.stdout
    assert "--graph=a.tflite --num_threads=3 " in Path(tmp_path / "asked").read_text()
