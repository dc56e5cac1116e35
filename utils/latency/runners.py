"""Time a .tflite model with LiteRT, or an ONNX model with ONNX Runtime, in this process.

A tool is a ``Runner``; benchmark_tool.py has one that starts a program. Runs on Python 3.9 with NumPy.
"""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Callable, Optional, Protocol, Union

import numpy as np

from utils.common.errors import UserError
from utils.common.output import quiet

ATTEMPTS = 3  # to time a model, before an error is reported

Model = Union[Path, bytes]  # a file, or what is in it
Timer = Callable[[int], list[float]]  # number of runs -> seconds of each, or one figure if the tool prints only one


class BenchmarkError(Exception):
    """One model could not be timed. The message has the reason and the tool's last lines."""


class Runner(Protocol):
    """A tool that times models, with a number of threads."""

    @property
    def num_threads(self) -> int: ...

    def describe(self) -> dict[str, Any]:
        """What a table's note says of the tool: "runtime", "threads", and "version" where it has one.

        Raises UserError where it is not installed.
        """
        ...

    def open(self, model: Model) -> Timer:
        """The model's timer. It, or this call, raises BenchmarkError where the model cannot be timed."""
        ...


def patiently(make: Callable[[], Model], runner: Runner, name: str, advice: str = "") -> Timer:
    """The timer of the model that ``make()`` gives, opened when it is first used and kept.

    It raises UserError, ending in ``advice``, when the model fails ATTEMPTS times.
    """
    timers: list[Timer] = []

    def timer(runs: int) -> list[float]:
        failure, model = None, None
        for _ in range(ATTEMPTS):
            try:
                if not timers:
                    model = make()
                    timers.append(runner.open(model))
                return timers[0](runs)
            except BenchmarkError as error:
                failure = error
                timers.clear()
        where = f"{model}" if isinstance(model, Path) else name
        raise UserError(f"{where}: could not be timed in {ATTEMPTS} attempts: {failure}{advice}")
    return timer


# --- LiteRT in this process ------------------------------------------------------------------------------------

@dataclass(frozen=True)
class LiteRTRunner:
    """Loads the model with LiteRT's interpreter, invokes it once to warm up, then times every invocation."""

    num_threads: int

    def describe(self) -> dict[str, Any]:
        module = interpreter_class().__module__.split(".")[0]
        return {"runtime": module, "version": _version(module), "threads": self.num_threads}

    def open(self, model: Model) -> Timer:
        source = {"model_content": model} if isinstance(model, bytes) else {"model_path": str(model)}
        try:
            with quiet(2):
                interpreter = interpreter_class()(num_threads=self.num_threads, **source)
                interpreter.allocate_tensors()
            for detail in interpreter.get_input_details():
                interpreter.set_tensor(detail["index"], _input_values(detail))
            interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split()) or "no reason given; too little memory?"
            raise BenchmarkError(f"LiteRT: {reason}") from error
        return partial(_time_invocations, interpreter, model)


def _time_invocations(interpreter: Any, model: Model, runs: int) -> list[float]:
    """model: this reference keeps its bytes alive, as the interpreter reads them in place."""
    try:
        return [_time_once(interpreter.invoke) for _ in range(runs)]
    except (ValueError, RuntimeError) as error:
        raise BenchmarkError(f"LiteRT: {' '.join(str(error).split())}") from error


def interpreter_class() -> Any:
    """The Interpreter of ai-edge-litert (64-bit) or tflite-runtime (32-bit). Raises UserError if both are missing."""
    try:
        from ai_edge_litert.interpreter import Interpreter
        return Interpreter
    except ImportError:
        pass
    try:
        from tflite_runtime.interpreter import Interpreter  # pyright: ignore[reportMissingImports]
        return Interpreter
    except ImportError:
        raise UserError("no TensorFlow Lite runtime in this Python: pip install ai-edge-litert on a 64-bit system, "
                        "pip install tflite-runtime on a 32-bit one (a Raspberry Pi before the 3, or with a 32-bit "
                        "Raspberry Pi OS), or --mode=load with the benchmark_model binary "
                        "(--benchmark_lite_loc)") from None


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

    def open(self, model: Model) -> Timer:
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
        return lambda runs: [_time_once(invoke) for _ in range(runs)]


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
