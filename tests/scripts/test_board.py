"""The board's side on a real Python 3.9, with what requirements-pi.txt installs and nothing else."""

import glob
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from model.description import as_dict
from tests.helpers import NOT_ON_A_PI, ROOT, described, environment, every_operator

pytestmark = pytest.mark.slow  # it makes an environment

TINY = ["--depth=10", "--width=0.0625"]


def python39():
    """A Python 3.9 on PATH, or one that pyenv installed; None where there is none."""
    pyenv = shutil.which("pyenv")
    root = subprocess.run([pyenv, "root"], capture_output=True, text=True).stdout.strip() if pyenv else ""
    installed = sorted(glob.glob(f"{root}/versions/3.9.*/bin/python3.9")) if root else []
    for found in [*installed, shutil.which("python3.9")]:
        if found and subprocess.run([found, "-c", "import venv"], capture_output=True).returncode == 0:
            return found
    return None


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    """An environment as a board has it: board("compute_table.py", "--flag", cwd=folder) -> the finished process."""
    python = python39()
    if python is None:
        pytest.skip("no Python 3.9 here: the board's side is tested on this Python alone")
    folder = tmp_path_factory.mktemp("board")
    subprocess.run([python, "-m", "venv", folder / "env"], check=True)
    made = subprocess.run([folder / "env/bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                           "-r", ROOT / "requirements-pi.txt"], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr

    def run(name, *flags, cwd):
        variables = {k: v for k, v in environment().items() if not k.startswith("PYTHON") or k.endswith("BYTECODE")}
        return subprocess.run([folder / "env/bin/python", *([ROOT / name] if name.endswith(".py") else [name]), *flags],
                              cwd=cwd, capture_output=True, text=True, env=variables)
    return run


@pytest.fixture
def here(board, tmp_path):
    """The same in tmp_path, where nothing may go wrong."""
    def run(name, *flags):
        found = board(name, *flags, cwd=tmp_path)
        assert found.returncode == 0, found.stderr
        return found
    return run


def test_it_is_a_python_39_without_the_desktops_packages(here):
    code = ("import importlib.util, sys; print(sys.version_info[:2], "
            f"[m for m in {NOT_ON_A_PI!r} if m not in ('joblib', 'tqdm') and importlib.util.find_spec(m)])")
    assert here("-c", code).stdout == "(3, 9) []\n"


def test_a_table_is_built_validated_and_merged(here, tmp_path):
    here("compute_table.py", *TINY, "--mode=build", "--save_file=one", "--num_measures=2", "--patience=0")
    here("compute_table.py", *TINY, "--mode=build", "--save_file=two", "--num_measures=2", "--patience=0",
         "--calibrate=0")
    here("compute_table.py", "--depth=10", "--width=0.25", "--mode=build", "--save_file=part", "--sample=0.7",
         "--num_measures=2", "--patience=0", "--calibrate=3")
    judged = here("compute_table.py", *TINY, "--mode=validate", "--perf_table=one", "--num_networks=3", "--json",
                  "--patience=0")
    assert len(json.loads(judged.stdout)["networks"]) == 3
    assert "matplotlib cannot be imported: pip install" in judged.stderr
    here("perf_tables/merge_perf_tables.py", "both", "one", "two")
    note = json.loads((tmp_path / "perf_tables/both.json").read_text())
    assert note["merged"]["from"] == ["one.pickle", "two.pickle"]


def test_files_are_made_by_two_processes_and_timed_with_the_binary(here, tmp_path):
    tool = tmp_path / "benchmark_model"
    tool.write_text("#!/bin/sh\necho 'count=1 curr=9'\necho 'count=11 first=5 avg=5'\necho 'x in us: no stats: 5'\n")
    tool.chmod(0o755)
    here("compute_table.py", *TINY, "--mode=save", "--save_file=x", "--jobs=2")
    here("compute_table.py", *TINY, "--mode=load", "--save_file=x", f"--benchmark_lite_loc={tool}", "--calibrate=0",
         "--patience=0")
    assert (tmp_path / "perf_tables/x.pickle").exists()


def test_a_description_is_enough_for_a_table(here, tmp_path):
    (tmp_path / "networks").mkdir()
    (tmp_path / "networks/mine.json").write_text(json.dumps(as_dict(every_operator(), "mine")))
    here("compute_table.py", "--net=mine", "--mode=build", "--save_file=mine", "--num_measures=2", "--patience=0",
         "--calibrate=3")
    judged = here("compute_table.py", "--net=mine", "--mode=validate", "--perf_table=mine", "--num_networks=3",
                  "--json", "--patience=0")
    assert len(json.loads(judged.stdout)["networks"]) == 3


def test_an_exported_model_is_measured(here, tmp_path):
    (tmp_path / "a.tflite").write_bytes(described())
    found = json.loads(here("compute_table.py", "--mode=measure", "--model=a.tflite", "--json", "--patience=0").stdout)
    assert 0 < found["measured_s"] < 10 and found["runtime"] == "ai_edge_litert"


def test_what_is_missing_is_said(board, tmp_path):
    (tmp_path / "perf_tables").mkdir()
    drawn = board("perf_tables/plot_perf_table.py", "x", cwd=tmp_path)
    assert drawn.returncode == 2 and drawn.stderr.startswith("error: ") and drawn.stderr.count("\n") == 1
    trained = board("train.py", "--dataset=digits", "--save_file=x", cwd=tmp_path)
    assert trained.returncode == 2 and "No module named 'torch'" in trained.stderr and trained.stderr.count("\n") == 1


def test_every_file_of_the_board_compiles(here):
    """As do all others: one language for the whole project."""
    files = [str(p) for folder in ("model", "utils", "perf_tables") for p in Path(ROOT / folder).rglob("*.py")]
    code = "import sys\nfor path in sys.argv[1:]: compile(open(path).read(), path, 'exec')"
    here("-c", code, *files, *map(str, ROOT.glob("*.py")))
    assert len(files) > 60 and os.path.exists(files[0])
