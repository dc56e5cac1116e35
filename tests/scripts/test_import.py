"""import_network.py, and what follows: trained from scratch, pruned by MACs, gone on with, exported to ONNX and
.pt2.
"""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from model.architectures import describe
from tests.helpers import ROOT, contents, environment, refused
from tests.nets import CifarNet

NETS = str(ROOT / "tests/nets.py")
IMPORT = ["import_network.py", f"--model={NETS}:CifarNet", "--img_size=8", "--save_file=mine"]
DIGITS = ["--dataset=digits", "--epochs=1"]
PRUNE = ["prune.py", "--perf_table=macs", "--pruning_fact=0.4", "--init_red_fact=2", "--short_term_fine_tune=1",
         "--batch_size=32", "--save_file=pruned"]


@pytest.fixture
def mine(script, tmp_path):
    """An imported network, of the weights in a file."""
    torch.manual_seed(3)
    module = CifarNet("B")
    torch.save({"state_dict": {f"module.{k}": v for k, v in module.state_dict().items()}}, tmp_path / "w.pth")
    script(*IMPORT, '--model_args={"shortcut": "B"}', "--weights=w.pth", "--mean", "0.5", "0.5", "0.5", "--std", "0.25",
           "0.25", "0.25", check=True)
    return module


def loaded(tmp_path, name):
    return torch.load(tmp_path / f"checkpoints/{name}.t7", weights_only=True)


def test_it_writes_a_description_and_the_users_own_parameters(mine, tmp_path):
    content = loaded(tmp_path, "mine")
    description = json.loads((tmp_path / "networks/mine.json").read_text())
    description.pop("sha256")
    assert content["arguments"]["description"] == description and content["arguments"]["img_size"] == 8
    assert content["normalisation"] == {"mean": [0.5] * 3, "std": [0.25] * 3}
    assert content["epoch"] == 0 and content["error_history"] == []
    assert {k: v.tolist() for k, v in content["state_dict"].items()} == {k: v.tolist() for k, v in
                                                                        mine.state_dict().items()}
    assert describe(**content["arguments"]).parameter_count(content["widths"]) == sum(
        p.numel() for p in mine.parameters())


def test_it_prints_groups_reasons_sizes_and_the_proof(script, tmp_path):
    found = script(*IMPORT, '--model_args={"shortcut": "B"}', "--keep=blocks.1.conv1", "--dry_run", check=True)
    for words in ("no --weights", "ImageNet's", "blocks_0_conv1      8  yes        blocks.0.conv1",
                  "stem                8             stem, blocks.0.conv2", "--keep=blocks.1.conv1: blocks.1.conv1",
                  "the output of the network: fc", "MACs", "0.0e+00 on the given weights", "on a seeded copy",
                  "nothing was written"):
        assert words in found.stdout, found.stdout
    assert contents(tmp_path) == {}


def test_json_is_one_object(script, tmp_path):
    found = json.loads(script(*IMPORT, "--dry_run", "--json", check=True).stdout)
    assert found["max_difference"] <= 1e-9 and found["sliced_vs_zeroed"] <= 1e-9 and found["prunable_share"] == 1
    assert found["parameters"] > 0 and found["macs"] > 0
    assert found["groups"][0] == {"name": "image", "width": 3, "prunable": False, "removable": False,
                                  "reason": "the image", "layers": []}
    assert contents(tmp_path) == {}


def test_from_an_import_to_onnx_and_pt2(mine, script, process, tmp_path):
    trained = script("train.py", "--net=mine", *DIGITS, "--save_file=base", check=True)
    assert "from scratch, initialised by He et al." in trained.stdout
    script(*PRUNE, "--base_model=base", "--multiple_of=2", "--keep=blocks.2.*", check=True)
    widths = loaded(tmp_path, "pruned")["widths"]
    assert all(w % 2 == 0 for g, w in widths.items() if g not in ("image", "fc")), widths
    assert widths["blocks_2_conv1"] == 32 and widths["blocks_2_conv2"] == 32 and sum(widths.values()) < 142
    script("train.py", "--net=mine", "--channels=pruned", *DIGITS, "--save_file=again", check=True)
    tuned = script("train.py", "--init=pruned", *DIGITS, "--learning_rate=0.001", "--save_file=tuned", check=True)
    assert "begins with the weights of --init" in tuned.stdout
    for name in ("again", "tuned"):
        assert loaded(tmp_path, name)["widths"] == widths
    for output in ("m.onnx", "m.pt2", "m.tflite"):
        found = process("export.py", "--checkpoint=tuned", f"--output={output}", "--no_measure")
        assert found.returncode == 0 and "the same top class on 100.0%" in found.stdout, found.stderr
    code = ("import torch, sys\nsys.modules['model'] = sys.modules['utils'] = None\n"
            "extra = {'labels.txt': '', 'network.json': ''}\n"
            "program = torch.export.load('m.pt2', extra_files=extra).module()\n"
            "print(extra['labels.txt'].split(), [len(program(torch.rand(n, 3, 8, 8) * 255)) for n in (1, 2, 5)])\n")
    alone = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True,
                           timeout=300)
    assert alone.stdout == f"{[str(n) for n in range(10)]} [1, 2, 5]\n", alone.stderr
    assert str(ROOT).encode() not in (tmp_path / "m.pt2").read_bytes()
    refused(process("export.py", "--checkpoint=tuned", "--output=m.pt2", "--quantize=int8"), "--quantize: only with")
    found = process("export.py", "--checkpoint=tuned", "--output=q.tflite", "--quantize=int8", "--no_measure",
                    "--min_agreement=50")  # a network that learnt little
    assert found.returncode == 0 and "int8" in found.stdout, found.stderr


def test_a_network_goes_on_with_its_weights_or_gets_a_new_classifier(mine, script, tmp_path):
    script("train.py", "--init=mine", *DIGITS, "--learning_rate=1e-12", "--momentum=0", "--save_file=same", check=True)
    before, after = (loaded(tmp_path, name)["state_dict"] for name in ("mine", "same"))
    assert all(torch.allclose(before[k], v) for k, v in after.items() if k.endswith("weight"))
    assert loaded(tmp_path, "same")["normalisation"] == {"mean": [0.5] * 3, "std": [0.25] * 3}
    script(*IMPORT, '--model_args={"num_classes": 4}', "--save_file=four", check=True)
    found = script("train.py", "--init=four", *DIGITS, "--learning_rate=1e-12", "--momentum=0", "--save_file=ten",
                   check=True)
    assert "another number of classes, so that fc.weight, fc.bias are new" in found.stdout
    before, after = (loaded(tmp_path, name)["state_dict"] for name in ("four", "ten"))
    assert after["fc.weight"].shape == (10, 32) and torch.allclose(before["stem.weight"], after["stem.weight"])


def test_an_init_that_does_not_fit_is_refused(mine, script, tmp_path):
    script(*IMPORT, '--model_args={"shortcut": "B", "width": 4}', "--save_file=narrow", check=True)
    refused(script("train.py", "--init=mine", "--net=narrow", *DIGITS, "--save_file=x"), "--init: holds a net mine",
            "expected a net narrow")
    refused(script("train.py", "--init=none", *DIGITS, "--save_file=x"), "checkpoints/none.t7: no such checkpoint")
    script(*PRUNE, "--base_model=mine", check=True)
    refused(script("train.py", "--init=mine", "--channels=pruned", *DIGITS, "--save_file=x"), "channels there, but",
            "leave --channels out")


def test_without_data_it_is_judged_on_random_images_and_nothing_is_downloaded(mine, script, process, tmp_path,
                                                                              monkeypatch):
    monkeypatch.setattr("torchvision.datasets.CIFAR10.download", lambda self: pytest.fail("a download"))
    found = script(*PRUNE, "--base_model=mine", check=True)
    assert "judged on random images, by whether it answers what the base model answers" in found.stdout
    assert "note: the base model" not in found.stdout
    refused(script(*PRUNE, "--base_model=mine", "--method=trade", "--save_file=x"), "no images were named")
    found = process("export.py", "--checkpoint=pruned", "--output=m.pt2")
    assert found.returncode == 0 and "compared on 64 random images" in found.stdout, found.stderr
    found = script(*PRUNE, "--base_model=mine", "--save_file=digits", "--dataset=digits", check=True)
    assert "random images" not in found.stdout and "was not trained here" in found.stdout


@pytest.mark.parametrize("flags, words", [
    ([f"--model={NETS}:tuple_output"], ("tuple_output: its output is a tuple",)),
    ([f"--model={NETS}:several_inputs"], ("it takes several inputs",)),
    (["--model=torchvision:vit_b_16", "--img_size=224"], ("--model=torchvision:vit_b_16: ", "VisionTransformer")),
    (["--model=torchvision:alexnet"], ("it cannot take images of 8x8 pixels",)),
    (["--weights=none.pth"], ("none.pth: no such file",)), (["--classes=three.txt"], ("three.txt: 3 lines",)),
    (["--keep=nothing"], ("--keep=nothing: no layer of that name; some are stem, bn",)),
    (["--mean", "0.5"], ("--mean, --std: expected three numbers each",)), (["--model_args=[1]"], ("a JSON object",)),
    (["--img_size", "8", "8", "8"], ("--img_size: expected a side, or height and width",)),
    (["--save_file=a/b"], ("--save_file='a/b'",))])
def test_what_cannot_be_read_in_is_one_line_and_nothing_is_written(script, tmp_path, flags, words):
    (tmp_path / "three.txt").write_text("a\nb\nc\n")
    before = contents(tmp_path)
    found = script(*IMPORT, *flags)
    assert found.returncode == 2 and len(found.stderr.strip().splitlines()) == 1, found.stderr
    for word in words:
        assert word in found.stderr
    assert contents(tmp_path) == before


def test_a_trained_network_is_not_replaced(mine, script, tmp_path):
    script("train.py", "--net=mine", *DIGITS, "--save_file=base", check=True)
    before = contents(tmp_path)
    refused(script(*IMPORT, "--save_file=base"), "checkpoints/base.t7: a network that was trained or pruned here")
    assert contents(tmp_path) == before
    script(*IMPORT, check=True)  # an import is
    by_hand = json.loads((tmp_path / "networks/mine.json").read_text())
    by_hand.pop("sha256")
    (tmp_path / "networks/other.json").write_text(json.dumps(by_hand))
    before = contents(tmp_path)
    refused(script(*IMPORT, "--save_file=other"), "networks/other.json: a description that was written by hand")
    assert contents(tmp_path) == before


def test_classes_and_oblong_grey_images(script, tmp_path):
    (tmp_path / "names.txt").write_text("".join(f"digit {n}\n" for n in range(10)))
    (tmp_path / "grey.py").write_text(
        "from torch import nn\n\ndef build():\n"
        "    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, "
        "10))\n")
    script("import_network.py", "--model=grey.py:build", "--img_size", "10", "8", "--mean", "0.4", "--std", "0.3",
           "--classes=names.txt", "--save_file=grey", check=True)
    content = loaded(tmp_path, "grey")
    assert content["classes"][3] == "digit 3" and content["arguments"]["img_size"] == [10, 8]
    script(*PRUNE, "--base_model=grey", "--dataset=digits", check=True)


# --- torchvision's networks ------------------------------------------------------------------------------------

GROUPS = {"resnet18": (12, 8), "mobilenet_v2": (25, 10), "shufflenet_v2_x1_0": (90, 72)}  # that are prunable, removable


@pytest.mark.parametrize("name", GROUPS)
def test_torchvisions_networks_are_exact(script, name):
    found = json.loads(script("import_network.py", f"--model=torchvision:{name}", "--img_size=64", "--dry_run",
                              "--json", check=True).stdout)
    groups = found["groups"]
    assert found["max_difference"] <= 1e-9 and found["sliced_vs_zeroed"] <= 1e-9 and found["prunable_share"] == 1
    assert (sum(g["prunable"] for g in groups), sum(g["removable"] for g in groups)) == GROUPS[name]


ANY_SIZE = ("resnet18", "resnet50", "wide_resnet50_2", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large",
            "squeezenet1_1", "densenet121", "googlenet", "efficientnet_b0", "shufflenet_v2_x1_0", "regnet_y_400mf",
            "mnasnet1_0", "convnext_tiny")
NO_BRANCH = ("vgg11_bn", "alexnet")  # their adaptive pools divide maps of 224 pixels, not of 64
ARGUMENTS = {"googlenet": {"aux_logits": False, "init_weights": False}}
MODULES = [*((f"torchvision:{name}", 64, ARGUMENTS.get(name, {})) for name in ANY_SIZE),
           *((f"torchvision:{name}", 224, {}) for name in NO_BRANCH),
           *((f"{NETS}:CifarNet", 32, {"shortcut": kind, "blocks": 3}) for kind in "AB"), (f"{NETS}:Odds", 28, {}),
           (f"{NETS}:Named", 16, {})]


def written(model, side, arguments, folder, form):
    """What tests/imported.py prints."""
    made = subprocess.run([sys.executable, "-m", "tests.imported", model, str(side), json.dumps(arguments), str(folder),
                           form], cwd=ROOT, capture_output=True, text=True, env=environment(), timeout=1200)
    assert made.returncode == 0, made.stderr[-2000:]
    return json.loads(made.stdout.splitlines()[-1])


def each(modules):
    return pytest.mark.parametrize("model, side, arguments", modules,
                                   ids=[m.rpartition(":")[2] + a.get("shortcut", "") for m, _, a in modules])


@pytest.mark.slow
@each(MODULES)
def test_a_network_is_exact_and_goes_out_to_onnx_and_pt2(tmp_path, model, side, arguments):
    """The whole one, and a pruned one with a branch removed, where it has one."""
    found = written(model, side, arguments, tmp_path, "onnx")
    name = model.rpartition(":")[2]
    assert found["max_difference"] <= 1e-9 and found["sliced_vs_zeroed"] <= 1e-9
    assert found["prunable_share"] >= (0.6 if name == "convnext_tiny" else 1)  # whose streams a layer norm locks
    assert (found["pruned"]["gone"] > 0) == (name not in (*NO_BRANCH, "Named"))
    code = ("import sys, torch, numpy\nsys.modules['model'] = sys.modules['utils'] = None\n"
            "program, x = torch.export.load(sys.argv[1] + '.pt2').module(), numpy.load(sys.argv[1] + '.npz')\n"
            "y = program(torch.from_numpy(x['images'])).detach().numpy()\n"
            "print(abs(y - x['expected']).max() / numpy.ptp(x['expected'], axis=0).max())\n")
    for name in ("full", "pruned"):
        alone = subprocess.run([sys.executable, "-I", "-c", code, name], cwd=tmp_path, capture_output=True, text=True,
                               env=environment(), timeout=600)
        assert alone.returncode == 0, alone.stderr[-1000:]
        assert found[name]["onnx"] <= 1e-3 and float(alone.stdout) <= 1e-3


LIKE_OTHERS = ("resnet18", "resnet50", "wide_resnet50_2", "densenet121", "regnet_y_400mf", "mnasnet1_0", "vgg11_bn",
               "alexnet", "mobilenet_v3_large")  # nothing in their .tflite that the rest does not have


@pytest.mark.slow
@each([m for m in MODULES if not m[0].endswith(LIKE_OTHERS)])
def test_a_network_goes_out_to_tflite(tmp_path, model, side, arguments):
    found = written(model, side, arguments, tmp_path, "tflite")
    assert found["full"]["tflite"] <= 1e-3 and found["pruned"]["tflite"] <= 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ANY_SIZE, *NO_BRANCH])
def test_networks_are_exact_at_224_pixels(process, name):
    done = process("import_network.py", f"--model=torchvision:{name}", "--img_size=224",
                   f"--model_args={json.dumps(ARGUMENTS.get(name, {}))}", "--dry_run", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["max_difference"] <= 1e-9 and found["sliced_vs_zeroed"] <= 1e-9
    assert found["prunable_share"] >= (0.6 if name == "convnext_tiny" else 1)  # whose streams a layer norm locks


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_b_16", "swin_t"])
def test_attention_is_refused_by_its_place(process, name):
    refused(process("import_network.py", f"--model=torchvision:{name}", "--img_size=224", "--save_file=x"),
            f"--model=torchvision:{name}: ", "attn" if name == "swin_t" else "VisionTransformer")


# --- another tool as a judge -----------------------------------------------------------------------------------

@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "densenet121", "vgg11_bn", "CifarNet"])
def test_torch_pruning_takes_the_same_channels_and_computes_the_same(name):
    """Torch-Pruning 1.6.1 (Fang et al., arXiv 2301.12900) finds what hangs on a filter by another way."""
    done = subprocess.run([sys.executable, "-m", "tests.oracle", name], cwd=ROOT, capture_output=True, text=True,
                          env=environment(), timeout=1200)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["shapes"] == [] and found["groups"] > 3
    assert np.isfinite(found["difference"]) and found["difference"] <= 1e-4, found
