"""Shared by all tests: a second architecture, the scripts as subprocesses, and the optional folder ../shared."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch loads: small tensors, and results that don't depend on it

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from model.architectures import describe
from model.network import Group, Input, Network, Node

ROOT = Path(__file__).resolve().parent.parent

settings.register_profile("tests", deadline=None, derandomize=True, max_examples=20)
settings.load_profile("tests")


def depthwise_network() -> Network:
    """A small network unlike a WideResNet: depthwise convolutions, a removable branch of two layers, 12 x 12 images."""
    groups = (Group("image", 3, prunable=False), Group("stem", 6), Group("expanded", 8, removable=True),
              Group("classes", 4, prunable=False))
    nodes = (
        Node("Stem", "conv", ("image",), "stem", kernel=3, stride=2, bn=True, relu=True, table="stem"),
        Node("Depth", "depthwise", ("Stem",), "stem", kernel=3, bn=True, relu=True, table="depth"),
        Node("Expand", "conv", ("Depth",), "expanded", bn=True, relu=True, table="expand"),
        Node("Filter", "depthwise", ("Expand",), "expanded", kernel=3, bn=True, relu=True, table="filter"),
        Node("Project", "conv", ("Filter",), "stem", table="project"),
        Node("Join", "add", ("Project", "Depth"), "stem", table="join"),
        Node("Pool", "pool", ("Join",), "stem"),
        Node("Classes", "linear", ("Pool",), "classes", bias=True, table="classes"),
    )
    return Network({"net": "depthwise"}, (Input("image", "image", 12),), groups, nodes)


NETWORKS = {
    "wideresnet-16-0.5": describe("res", depth=16, width=0.5),
    "wideresnet-10-1": describe("res", depth=10, width=1.0),
    "depthwise": depthwise_network(),
}


@pytest.fixture
def shared() -> Path:
    """The folder of real data beside a developer's checkout."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("../shared is absent: its real tables, channel files and benchmark outputs are not tested")
    return folder


@pytest.fixture
def script(tmp_path):
    """Run a script of the project in tmp_path: script("train.py", "--depth=10", ...) -> CompletedProcess."""
    def run_script(name: str, *flags: str, check: bool = False, **more):
        found = subprocess.run([sys.executable, str(ROOT / name), *flags], cwd=tmp_path, capture_output=True, text=True,
                               env=environment(), timeout=300, **more)
        if check:
            assert found.returncode == 0, found.stderr
        return found
    return run_script


def environment(**more: str) -> dict:
    return dict(os.environ, OMP_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1", **more)
