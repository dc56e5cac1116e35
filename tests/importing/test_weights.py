"""Weights from files: wrappings taken off, nothing executed, and what does not fit is named."""

import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.helpers import Touch
from tests.nets import CifarNet
from utils.common.errors import UserError
from utils.importing.weights import load_into


def trained():
    torch.manual_seed(1)
    return CifarNet("B").state_dict()


WRAPPINGS = {
    "plain": lambda s: s, "under state_dict": lambda s: {"state_dict": s, "epoch": 3, "optimizer": {"lr": 0.1}},
    "under model, with EMA": lambda s: {"model": s, "args": "x"},
    "DataParallel": lambda s: {f"module.{k}": v for k, v in s.items()},
    "compiled": lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
    "compiled, then DataParallel": lambda s: {"state_dict": {f"module._orig_mod.{k}": v for k, v in s.items()}},
    "a part compiled": lambda s: {k.replace("blocks.1.", "blocks.1._orig_mod."): v for k, v in s.items()},
    "Lightning": lambda s: {"state_dict": {f"model.{k}": v for k, v in s.items()}},
    "old, without counters": lambda s: {k: v for k, v in s.items() if "num_batches" not in k}}


@pytest.mark.parametrize("name", WRAPPINGS)
def test_wrappings_are_taken_off(tmp_path, name):
    state, module = trained(), CifarNet("B")
    torch.save(WRAPPINGS[name](state), tmp_path / "w.pth")
    assert load_into(module, tmp_path / "w.pth") == []
    assert all(torch.equal(module.state_dict()[k], v) for k, v in state.items())


def test_safetensors_are_read(tmp_path):
    state, module = trained(), CifarNet("B")
    save_file(state, tmp_path / "w.safetensors")
    load_into(module, tmp_path / "w.safetensors")
    assert torch.equal(module.fc.weight, state["fc.weight"])


def test_extra_heads_are_left_out_and_named(tmp_path):
    torch.save({**trained(), "aux.weight": torch.ones(3)}, tmp_path / "w.pth")
    assert load_into(CifarNet("B"), tmp_path / "w.pth") == ["aux.weight"]


def without(state, name):
    return {k: v for k, v in state.items() if k != name}


BROKEN = {
    "missing": (lambda s: without(s, "blocks.1.bn2.bias"),
                "1 of the module's 56 weights are missing: blocks.1.bn2.bias"),
    "another shape": (lambda s: {**s, "fc.weight": torch.ones(7, 32)},
                      r"fc.weight is of shape \[7, 32\], but the module's"),
    "not finite": (lambda s: {**s, "fc.weight": s["fc.weight"] * float("nan")}, "fc.weight holds numbers that are not"),
    "no state": (lambda s: {"epoch": 3}, "expected a state dict"),
    "a list": (lambda s: [1, 2], "expected a state dict"),
    "a whole module": (lambda s: CifarNet("B"), "holds more than weights")}


@pytest.mark.parametrize("name", BROKEN)
def test_what_does_not_fit_is_said_and_nothing_changes(tmp_path, name):
    make, words = BROKEN[name]
    torch.save(make(trained()), tmp_path / "w.pth")
    module = CifarNet("B")
    before = {k: v.clone() for k, v in module.state_dict().items()}
    with pytest.raises(UserError, match=f"w.pth: .*{words}"):
        load_into(module, tmp_path / "w.pth")
    assert all(torch.equal(module.state_dict()[k], v) for k, v in before.items())


@pytest.mark.parametrize("name, words", [("torn.pth", "not a whole state dict"),
                                         ("torn.safetensors", "not a whole safe"),
                                         ("text.pth", "not a whole state dict"), ("none.pth", "no such file"),
                                         (".", "a folder")])
def test_files_that_are_no_weights_are_named(tmp_path, name, words):
    torch.save(trained(), tmp_path / "w.pth")
    (tmp_path / "text.pth").write_text("version https://git-lfs.github.com/spec/v1\n")
    for torn in ("torn.pth", "torn.safetensors"):
        (tmp_path / torn).write_bytes((tmp_path / "w.pth").read_bytes()[:1000])
    with pytest.raises(UserError, match=words):
        load_into(CifarNet("B"), tmp_path / name)


def test_lazy_layers_are_named(tmp_path):
    torch.save({"0.weight": torch.ones(4, 3, 1, 1), "0.bias": torch.ones(4)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="w.pth: 0.weight of the module is lazy"):
        load_into(nn.Sequential(nn.LazyConv2d(4, 1)), tmp_path / "w.pth")


def test_loading_executes_nothing(tmp_path):
    (tmp_path / "w.pth").write_bytes(pickle.dumps({"fc.weight": Touch(tmp_path / "touched")}))
    with pytest.raises(UserError, match="w.pth: "):
        load_into(CifarNet("B"), tmp_path / "w.pth")
    assert not (tmp_path / "touched").exists()
