"""Fixtures: the scripts as processes, a trained network with its table, and the optional folder ../shared."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch loads: small tensors, and results that don't depend on it

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch._dynamo  # noqa: F401  loads Triton, which crashes if it comes after TensorFlow
from hypothesis import settings

from tests.helpers import ROOT, TINY, TRAIN, Ran, arithmetic_table, environment, proportional_table, run_here
from utils.latency import model_timing
from utils.latency import settings as measuring
from utils.latency.table_files import write_pair

settings.register_profile("tests", deadline=None, derandomize=True, max_examples=20)
settings.load_profile("tests")


@pytest.fixture
def shared() -> Path:
    """The folder of real data beside a developer's checkout."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("../shared is absent: its real tables, channel files and benchmark outputs are not tested")
    return folder


@pytest.fixture
def table_file(tmp_path):
    """Write anything as a pickle: table_file(content) -> its path."""
    def write(table, name="t.pickle"):
        (tmp_path / name).write_bytes(pickle.dumps(table))
        return tmp_path / name
    return write


@pytest.fixture
def impatient(monkeypatch):
    """Measuring in this process is brief and waits for no quiet machine: tests judge no latency."""
    for name in ("PATIENCE_S", "JUDGING_PATIENCE_S", "MODEL_PATIENCE_S"):
        monkeypatch.setattr(measuring, name, 0.0)
    monkeypatch.setattr(model_timing, "SECONDS", 0.05)
    monkeypatch.setattr(model_timing, "CARE", replace(model_timing.CARE, patience_s=0.0, short_wait_s=0.0))


@pytest.fixture
def script(tmp_path, impatient):
    """Run a script of the project in tmp_path: script("train.py", "--depth=10", ...) -> Ran."""
    def run_script(name: str, *flags: str, check: bool = False) -> Ran:
        found = run_here(name, *flags, cwd=tmp_path)
        if check:
            assert found.returncode == 0, found.stderr
        return found
    return run_script


@pytest.fixture
def process(tmp_path):
    """The same in a process of its own, where that is what matters."""
    def run_process(name: str, *flags: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, str(ROOT / name), *flags], cwd=tmp_path, capture_output=True, text=True,
                              env=environment(), timeout=300)
    return run_process


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> bytes:
    """A checkpoint of the network TINY, trained on the digits."""
    folder = tmp_path_factory.mktemp("trained")
    found = run_here(*TRAIN, cwd=folder)
    assert found.returncode == 0, found.stderr
    return (folder / "checkpoints/base.t7").read_bytes()


@pytest.fixture
def ready(tmp_path, trained) -> Path:
    """A folder with that network and a table."""
    for name in ("checkpoints", "perf_tables"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoints/base.t7").write_bytes(trained)
    write_pair(tmp_path / "perf_tables/table.pickle", arithmetic_table(TINY), {"device": {"model": "A Board 3"}})
    return tmp_path


@pytest.fixture
def priced(ready) -> Path:
    """The same with a table in which narrower is faster."""
    write_pair(ready / "perf_tables/table.pickle", proportional_table(TINY), {})
    return ready
