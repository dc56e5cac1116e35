"""Time a .tflite model with LiteRT, or an ONNX model with ONNX Runtime, in this process.

A tool is a ``Runner``; benchmark_tool.py has one that starts a program. Runs on Python 3.9 with NumPy.
"""

import time
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Callable, Optional, Protocol, Union

import numpy as np

from utils.common.errors import UserError
from utils.common.output import quiet

ATTEMPTS = 3  # to time a model, before an error is reported

Model = Union[Path, bytes]  # a file, or what is in it
Timer = Callable[[int], list[float]]  # number of runs -> seconds of each, or one figure if the tool prints only one
NO_DELEGATE = "none"


class BenchmarkError(Exception):
    """One model could not be timed. The message has the reason and the tool's last lines."""


class Untimed(UserError):
    """A model could not be timed, after ATTEMPTS. name: as ``patiently`` was given it."""

    def __init__(self, name: str, message: str):
        super().__init__(message)
        self.name = name


@dataclass(frozen=True)
class Opened:
    """A model that is ready to be timed."""

    time: Timer
    delegate: Optional[str] = None  # the kernels that run it: "XNNPACK", or NO_DELEGATE; None: not known


class Runner(Protocol):
    """A tool that times models, with a number of threads."""

    @property
    def num_threads(self) -> int: ...

    def describe(self) -> dict[str, Any]:
        """What a table's note says of the tool: "runtime", "threads", and "version" where it has one.

        Raises UserError where it is not installed.
        """
        ...

    def open(self, model: Model) -> Opened:
        """The model with its timer. The timer, or this call, raises BenchmarkError if the model cannot be timed."""
        ...


def patiently(make: Callable[[], Model], runner: Runner, name: str, advice: str = "",
              opened: Callable[[Opened], None] = lambda _: None) -> Timer:
    """The timer of the model that ``make()`` gives, opened when it is first used and kept.

    opened: called with the model whenever it was opened. The timer raises Untimed, ending in ``advice``, when the
    model fails ATTEMPTS times.
    """
    models: list[Opened] = []

    def timer(runs: int) -> list[float]:
        failure, model = None, None
        for _ in range(ATTEMPTS):
            try:
                if not models:
                    model = make()
                    models.append(runner.open(model))
                    opened(models[0])
                return models[0].time(runs)
            except BenchmarkError as error:
                failure = error
                models.clear()
        where = f"{model}" if isinstance(model, Path) else name
        raise Untimed(name, f"{where}: could not be timed in {ATTEMPTS} attempts: {failure}{advice}")
    return timer


# --- LiteRT in this process ------------------------------------------------------------------------------------

@dataclass(frozen=True)
class LiteRTRunner:
    """Loads the model with LiteRT's interpreter, invokes it once to warm up, then times every invocation."""

    num_threads: int

    def describe(self) -> dict[str, Any]:
        module = interpreter_class().__module__.split(".")[0]
        return {"runtime": module, "version": _version(module), "threads": self.num_threads}

    def open(self, model: Model) -> Opened:
        source = {"model_content": model} if isinstance(model, bytes) else {"model_path": str(model)}
        make = interpreter_class()
        try:
            with quiet(2):
                interpreter = make(num_threads=self.num_threads, **source)
                interpreter.allocate_tensors()
            for detail in interpreter.get_input_details():
                interpreter.set_tensor(detail["index"], _input_values(detail))
            interpreter.invoke()
        except SystemError as error:  # tflite-runtime can be imported with NumPy 2, and fails here
            if not make.__module__.startswith("tflite_runtime") or np.__version__.startswith("1."):
                raise BenchmarkError(f"LiteRT: {_reason(error)}") from error
            raise UserError(f"tflite-runtime {_version('tflite-runtime')} fails with NumPy {np.__version__}: it needs "
                            "NumPy below 2; pip install 'numpy<2'; docs/latency-tables.md, \"Preparing the board\", "
                            "has the versions of every system") from error
        except Exception as error:  # runtimes raise many kinds, and differ in them
            raise BenchmarkError(f"LiteRT: {_reason(error)}") from error
        return Opened(partial(_time_invocations, interpreter, model), _delegate(interpreter))


def _time_invocations(interpreter: Any, model: Model, runs: int) -> list[float]:
    """model: this reference keeps its bytes alive, as the interpreter reads them in place."""
    try:
        return [_time_once(interpreter.invoke) for _ in range(runs)]
    except Exception as error:
        raise BenchmarkError(f"LiteRT: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or f"no reason given ({type(error).__name__}); too little memory?"


def _delegate(interpreter: Any) -> Optional[str]:
    """XNNPACK is the one delegate that runtimes use by themselves; their lists of operators then end in it."""
    try:
        operators = interpreter._get_ops_details()
        return "XNNPACK" if any(o["op_name"] == "DELEGATE" for o in operators) else NO_DELEGATE
    except Exception:  # no part of what runtimes promise
        return None


def interpreter_class() -> Any:
    """The Interpreter of ai-edge-litert, or of tflite-runtime. Raises UserError if none can be imported."""
    broken = []
    try:
        from ai_edge_litert.interpreter import Interpreter
        return Interpreter
    except Exception as error:
        broken += _unless_missing("ai_edge_litert", error)
    try:
        from tflite_runtime.interpreter import Interpreter  # pyright: ignore[reportMissingImports]
        return Interpreter
    except Exception as error:
        broken += _unless_missing("tflite_runtime", error)
    if broken:
        raise UserError(f"{'; '.join(broken)}. Install what it needs, another version of it, or time files with the "
                        "benchmark_model binary (--mode=load --benchmark_lite_loc)")
    raise UserError("no TensorFlow Lite runtime in this Python: pip install -r requirements-pi.txt, or "
                    "requirements-pi32.txt with 32-bit Python. On armv6l, and with 32-bit Python from 3.12 on, none "
                    "exists: time the files of --mode=save by --mode=load with the benchmark_model binary "
                    "(--benchmark_lite_loc); docs/latency-tables.md, \"Preparing the board\", has a table of systems")


def _unless_missing(package: str, error: Exception) -> list[str]:
    """Why a package that is installed cannot be imported."""
    if find_spec(package) is None:
        return []
    numpy_1 = "; it was built for NumPy 1: pip install 'numpy<2'" if "numpy" in str(error).lower() else ""
    return [f"{package} is installed, but cannot be imported ({type(error).__name__}: {' '.join(str(error).split())}"
            f"{numpy_1})"]


def _version(module: str) -> str:
    from importlib import metadata
    try:
        return metadata.version(module.replace("_", "-"))
    except metadata.PackageNotFoundError:
        return "unknown"


def _input_values(detail: dict[str, Any]) -> np.ndarray:
    """Input values: floats in 0..1 or integers in 0..127. detail: the interpreter's description of the input.

    An input that is not set holds whatever was in memory, denormal numbers included.
    """
    shape, kind = detail["shape"], np.dtype(detail["dtype"])
    most = 127 if kind in (np.int8, np.uint8) else 1
    return np.linspace(0, most, int(np.prod(shape))).reshape(shape).astype(kind)


# --- ONNX Runtime in this process ------------------------------------------------------------------------------

@dataclass(frozen=True)
class OnnxRunner:
    """Loads an ONNX model of one input on the CPU, runs it once to warm up, then times every run."""

    num_threads: int

    def describe(self) -> dict[str, Any]:
        version = _version("onnxruntime")
        if version == "unknown":
            raise UserError("ONNX Runtime is not installed in this Python; pip install onnxruntime")
        return {"runtime": "onnxruntime", "version": version, "threads": self.num_threads}

    def open(self, model: Model) -> Opened:
        try:
            session = onnx_session(model, self.num_threads)
            entry, = session.get_inputs()
            shape = [n if isinstance(n, int) else 1 for n in entry.shape]  # a name stands for any number
            invoke = partial(session.run, None, {entry.name: _input_values({"shape": shape, "dtype": np.float32})})
            invoke()
        except ImportError:
            raise
        except Exception as error:  # ONNX Runtime raises many kinds of its own
            raise BenchmarkError(f"ONNX Runtime: {' '.join(str(error).split())}") from error
        return Opened(lambda runs: [_time_once(invoke) for _ in range(runs)])


def onnx_session(model: Model, num_threads: Optional[int] = None) -> Any:
    """ONNX Runtime's session of a model, on the CPU. num_threads: None lets ONNX Runtime choose."""
    import onnxruntime
    options = onnxruntime.SessionOptions()
    if num_threads is not None:
        options.intra_op_num_threads = num_threads
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _time_once(invoke: Callable[[], Any]) -> float:
    began = time.perf_counter()
    invoke()
    return time.perf_counter() - began
