"""The scripts of this project, each run in a fork of one process that has loaded everything: a run takes a fraction of
a second. In a run, a call of the system can be made to fail, or the run can be killed there (shim.c).
"""

import ctypes
import errno
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COUNT, FAIL, FAIL_ON, KILL_BEFORE, KILL_AFTER, KILL_HALF = range(6)  # as shim.c has them
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS)
LOADED = ("torch._dynamo", "matplotlib.figure", "matplotlib.backends.backend_agg", "scipy.ndimage", "scipy.optimize",
          "joblib", "PIL.Image", "torchvision", "onnx", "onnxruntime", "model.onnx_net", "model.tflite_net",
          "utils.learning.assembly", "utils.pruning.assembly", "utils.comparison.assembly", "utils.deploy.assembly",
          "utils.importing.assembly", "utils.latency.assembly", "perf_tables.merge_perf_tables", "tests.helpers")


@dataclass(frozen=True)
class Call:
    """A call that changes files, as the shim notes it."""

    number: int
    name: str
    path: str


@dataclass(frozen=True)
class Run:
    """What a run did. code: -9 where it was killed."""

    code: int
    stdout: str
    stderr: str
    calls: tuple[Call, ...]


def compiled(folder: Path):
    """The shim as a library; None where there is no C compiler."""
    if not shutil.which("cc"):
        return None
    library = folder / "shim.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, ROOT / "tests/shim.c", "-ldl"], check=True)
    return library


class Forks:
    """``with Forks(library) as forks``: the process lives until the block ends. library: the shim, or None."""

    def __init__(self, library=None):
        self.library = library

    def __enter__(self):
        preloaded = {"LD_PRELOAD": str(self.library)} if self.library else {}
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from tests.forked import serve; serve()"], cwd=ROOT, text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=dict(os.environ, OMP_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1", **preloaded))
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait()

    def run(self, folder, *flags, chosen=0, how=COUNT, error=0, only="") -> Run:
        """Run a script, ``flags[0]``, in the folder. chosen: the number of the call that goes wrong, of those that hold
        the text ``only``."""
        assert not chosen or self.library, "only the shim makes calls go wrong"
        job = {"folder": os.path.realpath(folder), "flags": flags, "chosen": chosen, "how": how, "error": error,
               "only": only}
        self._process.stdin.write(json.dumps(job) + "\n")
        found = json.loads(self._process.stdout.readline())
        calls = (line.split(" ", 2) for line in found["calls"].splitlines())
        return Run(found["code"], found["stdout"], found["stderr"], tuple(Call(int(n), *rest) for n, *rest in calls))


# --- in that process -------------------------------------------------------------------------------------------

def serve():
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for name in LOADED:
        importlib.import_module(name)
    settings = importlib.import_module("utils.latency.settings")
    settings.OwnProcess = SizeRunner  # a table is the same whenever it is measured
    for line in sys.stdin:
        print(json.dumps(_forked(json.loads(line))), file=answers)


def _forked(job):
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as log:
        child = os.fork()
        if not child:
            _in_the_fork(job, said.fileno(), log.fileno())
        _, status = os.waitpid(child, 0)
        said.seek(0)
        log.seek(0)
        code = os.waitstatus_to_exitcode(status)
        assert code in (0, -signal.SIGKILL), code
        found = json.loads(said.read()) if code == 0 else {"code": code, "stdout": "", "stderr": ""}
        return {**found, "calls": log.read().decode()}


def _in_the_fork(job, said, log):
    from tests.helpers import run_here
    arm = getattr(ctypes.CDLL(None), "shim_arm", None)
    code = 1
    try:
        if arm:
            arm(job["folder"].encode(), job["only"].encode(), log, job["chosen"], job["how"], job["error"])
        found = run_here(*job["flags"], cwd=job["folder"])
        if arm:
            ctypes.CDLL(None).shim_disarm()
        os.write(said, json.dumps({"code": found.returncode, "stdout": found.stdout, "stderr": found.stderr}).encode())
        code = 0
    finally:
        os._exit(code)


class SizeRunner:
    """A runner whose seconds are the size of the model, and a little of what is in it."""

    def __init__(self, num_threads):
        self.num_threads = num_threads

    def describe(self):
        return {"runtime": "size", "version": "1", "threads": self.num_threads}

    def open(self, model):
        from utils.latency.runners import Opened
        raw = model if isinstance(model, bytes) else Path(model).read_bytes()
        seconds = 1e-9 * (len(raw) + zlib.crc32(raw) % 1000 / 1000)
        return Opened(lambda runs: [seconds] * runs, "none")
