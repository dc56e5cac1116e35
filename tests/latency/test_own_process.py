"""A runtime that crashes takes a model along, and nothing else. The runtime here is one that does what its model says.

A model is a number of seconds, with a word in front of it that makes the runtime misbehave.
"""

import gc
import os
import select
import signal
import subprocess
import sys

import pytest

from tests.helpers import ROOT, environment
from utils.common.errors import UserError
from utils.latency.own_process import OwnProcess
from utils.latency.runners import BenchmarkError, Untimed, patiently

RUNTIME = '''
import os, signal, sys

class Interpreter:
    def __init__(self, num_threads, model_content=None, model_path=None):
        if model_path is not None:
            model_content = open(model_path, "rb").read()
        self.word, self.text = model_content.decode().split(" ", 1)
        self.runs = 0
        print("INFO: a runtime that talks on stdout", flush=True)

    def allocate_tensors(self):
        if self.word == "typeerror":
            raise TypeError("no such thing")
        if self.word == "silent":
            raise OSError

    def get_input_details(self):
        return []

    def _get_ops_details(self):
        if self.word == "untold":
            raise AttributeError
        return [{"op_name": "CONV_2D"}] + [{"op_name": "DELEGATE"}] * (self.word != "plain")

    def invoke(self):
        self.runs += 1
        if self.word == "segv":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.word == "abort":
            sys.stderr.write("F0000 a check failed\\n")
            sys.stderr.flush()
            os.abort()
        if self.word == "exit":
            os._exit(7)
        if self.word == "later" and self.runs == 3:
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.word == "fails" and self.runs == 3:
            raise SystemError("no memory for a tensor")
        if self.word == "count":
            import gc
            gc.collect()
            raise ValueError(f"{sum(isinstance(o, Interpreter) for o in gc.get_objects())} alive")
'''


@pytest.fixture
def runtime(tmp_path, monkeypatch):
    package = tmp_path / "packages/ai_edge_litert"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "interpreter.py").write_text(RUNTIME)
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    return package


def test_models_are_timed_and_say_what_runs_them(runtime, tmp_path):
    runner = OwnProcess(2)
    assert runner.describe() == {"runtime": "ai_edge_litert", "version": runner.describe()["version"], "threads": 2}
    (tmp_path / "a.tflite").write_bytes(b"good 1")
    for model, delegate in ((b"good 1", "XNNPACK"), (tmp_path / "a.tflite", "XNNPACK"), (b"plain 1", "none"),
                            (b"untold 1", None)):
        opened = runner.open(model)
        assert opened.delegate == delegate and all(0 < s < 1 for s in opened.time(3)) and len(opened.time(3)) == 3
    assert runner.crashes == 0


@pytest.mark.parametrize("model,words", [
    (b"segv 1", "the runtime crashed: signal SIGSEGV"), (b"exit 1", "the runtime crashed: exit code 7"),
    (b"typeerror 1", "LiteRT: no such thing"), (b"silent 1", "LiteRT: no reason given .OSError.; too little memory?")])
def test_a_model_that_cannot_be_opened_is_one_error(runtime, model, words):
    runner = OwnProcess(1)
    with pytest.raises(BenchmarkError, match=words):
        runner.open(model)
    assert len(runner.open(b"good 1").time(5)) == 5


def test_what_a_crashing_runtime_said_is_told(runtime):
    runner = OwnProcess(1)
    opened = runner.open(b"good 1")
    (runtime / "interpreter.py").write_text("import os\nos.write(2, b'GLIBC is too old\\n')\nos.abort()\n")
    with pytest.raises(BenchmarkError, match="SIGABRT; its last lines: GLIBC is too old"):
        OwnProcess(1).open(b"good 1")
    with pytest.raises(UserError, match="SIGABRT; its last lines: GLIBC is too old, when it was imported; install"):
        OwnProcess(1).describe()
    assert len(opened.time(2)) == 2


def test_the_others_go_on_when_one_crashes(runtime):
    runner = OwnProcess(1)
    good, later = runner.open(b"good 1"), runner.open(b"later 1")
    assert len(good.time(2)) == 2
    with pytest.raises(BenchmarkError, match="SIGSEGV"):
        later.time(5)
    assert len(good.time(2)) == 2 and runner.crashes == 1
    with pytest.raises(BenchmarkError, match="LiteRT: no memory for a tensor"):
        runner.open(b"fails 1").time(5)
    assert runner.crashes == 1


def test_an_error_names_the_model_after_three_attempts(runtime, tmp_path):
    runner = OwnProcess(1)
    with pytest.raises(Untimed, match="^Conv 3 5: could not be timed in 3 attempts: the runtime crashed: signal "
                                      "SIGSEGV.*; go on") as error:
        patiently(lambda: b"segv 1", runner, "Conv 3 5", "; go on")(3)
    assert error.value.name == "Conv 3 5" and runner.crashes == 3


def test_models_that_nobody_uses_are_closed(runtime):
    runner = OwnProcess(1)
    kept = runner.open(b"good 1")
    for _ in range(50):
        runner.open(b"good 1").time(1)
    gc.collect()
    with pytest.raises(BenchmarkError, match="LiteRT: 2 alive"):  # the kept one and the one that counts
        runner.open(b"count 1")
    assert kept.time(1)


def test_it_ends_when_nobody_has_it_any_more(runtime):
    runner = OwnProcess(1)
    opened = runner.open(b"good 1")
    child = os.pidfd_open(runner._process.pid)
    del runner
    assert opened.time(1), "who has a model has the process"
    del opened
    gc.collect()
    assert select.select([child], [], [], 60)[0], "the process goes on"


def test_it_ends_with_its_parent(runtime, tmp_path):
    code = ("import sys, os, signal; sys.path[:0] = [sys.argv[1], sys.argv[2]]\n"
            "from utils.latency.own_process import OwnProcess\n"
            "runner = OwnProcess(1); runner.open(b'good 1')\n"
            "print(runner._process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)")
    done = subprocess.run([sys.executable, "-c", code, str(runtime.parent), str(ROOT)], capture_output=True, text=True,
                          env=environment())
    assert done.returncode == -signal.SIGKILL
    try:
        child = os.pidfd_open(int(done.stdout))
    except ProcessLookupError:
        return  # it has ended already
    assert select.select([child], [], [], 60)[0], "the child goes on"


def test_a_runtime_of_numpy_1_says_so_under_numpy_2(runtime, monkeypatch):
    (runtime / "interpreter.py").write_text("raise ImportError")
    other = runtime.parent / "tflite_runtime"
    other.mkdir()
    (other / "__init__.py").write_text("")
    (other / "interpreter.py").write_text("class Interpreter:\n    def __init__(self, **_):\n"
                                          "        raise SystemError('returned a result with an exception set')\n")
    with pytest.raises(UserError, match="tflite-runtime unknown fails with NumPy 2.*: it needs NumPy below 2; pip"):
        OwnProcess(1).open(b"good 1")


def test_a_runtime_that_cannot_be_imported_says_why(runtime):
    (runtime / "interpreter.py").write_text("raise OSError(\"libm.so.6: version `GLIBC_2.38' not found\")")
    with pytest.raises(UserError, match="ai_edge_litert is installed, but cannot be imported .OSError: libm.so.6: "
                                        "version `GLIBC_2.38' not found.. Install what it needs"):
        OwnProcess(1).describe()
    (runtime / "interpreter.py").write_text("raise ImportError('numpy.core.multiarray failed to import')")
    with pytest.raises(UserError, match="it was built for NumPy 1: pip install 'numpy<2'"):
        OwnProcess(1).open(b"good 1")


MEMORY = """
import re, sys
from pathlib import Path
from model.architectures import describe
from utils.latency import writing
from utils.latency.own_process import OwnProcess

network = describe("res", depth=22, width=10)
print(network.parameter_count(network.full_widths))
runner, model = OwnProcess(1), None
for _ in range(2):
    model = writing.whole_network(1, network, network.full_widths)
    runner.open(model).time(2)
for process in ("self", runner._process.pid):
    print(re.search(r"VmHWM:\\s+(\\d+) kB", Path(f"/proc/{process}/status").read_text())[1])
"""


@pytest.mark.slow
def test_a_network_of_25_million_parameters_takes_less_than_800_mb():
    done = subprocess.run([sys.executable, "-c", MEMORY], cwd=ROOT, capture_output=True, text=True, env=environment())
    parameters, here, there = map(int, done.stdout.split())
    assert parameters > 25e6 and 100e3 < here + there < 700e3, done.stdout  # 632 MB; 751 if the writer kept constants
