"""Where --model leads: torchvision, timm, a file, a package; what the user's code raises ends in one line."""

import sys

import pytest
from torch import nn

from tests.helpers import ROOT
from utils.common.errors import UserError
from utils.importing.modules import make

NETS = str(ROOT / "tests/nets.py")


def test_a_file_and_a_package_are_found():
    for spec in (f"{NETS}:CifarNet", "tests.nets:CifarNet"):
        module = make(spec, {"num_classes": 7}, 0)
        assert isinstance(module, nn.Module) and module.fc.out_features == 7 and not module.training


def test_the_same_seed_makes_the_same_weights():
    one, same, other = (make("tests.nets:CifarNet", {}, seed).fc.weight for seed in (0, 0, 1))
    assert one.equal(same) and not one.equal(other)


@pytest.mark.parametrize("spec, arguments, words", [
    ("resnet18", {}, "--model=resnet18: expected torchvision:NAME, timm:NAME, FILE.py:CALLABLE"),
    ("torchvision:resnet19", {}, "no such model; did you mean resnet18"),
    ("torchvision:resnet18", {"depth": 3}, "raised TypeError: .*depth.*; its arguments are --model_args"),
    ("none.py:build", {}, "none.py: no such file"), (f"{NETS}:CifarNett", {},
                                                     "has no callable CifarNett; did you mean CifarN"),
    ("model.resnet:Net", {}, "has no callable Net; .*model is a package of this project: give yours another name"),
    ("utils.nets:build", {}, "ModuleNotFoundError.*utils is a package of this project"),
    ("no.such.package:build", {}, "importing no.such.package raised ModuleNotFoundError"),
    ("tests.nets:exits", {}, "raised SystemExit: gone"),
    ("tests.nets:no_module", {}, "gave a int, expected a torch.nn.Module")])
def test_what_leads_nowhere_is_said(spec, arguments, words):
    with pytest.raises(UserError, match=words):
        make(spec, arguments, 0)


def test_timm_is_for_those_who_have_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match="--model=timm:resnet18: .*install it with pip install timm"):
        make("timm:resnet18", {}, 0)
