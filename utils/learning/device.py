"""Where a network runs, and in which precision its convolutions are done."""

import ctypes
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Callable, TypeVar

import torch
from torch import nn
from torch.nn import functional as F

from utils.common.errors import UserError, first_line
from utils.learning.settings import Compute

AnyModule = TypeVar("AnyModule", bound=nn.Module)

ROUNDS, FASTER = 5, 0.8  # in which both precisions are timed; the part of float32's time that bfloat16 may take
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of glibc's mallopt(3)


@dataclass(frozen=True)
class Device:
    name: str = "cpu"  # "cpu", "cuda", "cuda:1", ...
    precision: str = "fp32"  # or "bf16": convolutions in bfloat16, weights and their updates in float32

    def place(self, model: AnyModule) -> AnyModule:
        """The model on this device, its tensors laid out channels-last, which convolutions are fastest with."""
        return model.to(self.name, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  (stubs lack it)

    def one_each(self, backend: str) -> list[str]:
        """The devices to divide among workers: all GPUs, unless one was named or a cluster divides them itself."""
        if self.name == "cuda" and backend == "local":
            return [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        return [self.name]

    def autocast(self) -> torch.autocast:
        """The context in which to run a forward pass and its loss."""
        return torch.autocast(torch.device(self.name).type, torch.bfloat16, enabled=self.precision == "bf16")


def pick(name: str, precision: str) -> Device:
    """The device of the flags. ``auto`` is a GPU if there is one, and bf16 if convolutions are faster in it.

    Raises UserError for a device that torch cannot use here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device={name}: torch cannot use it here ({first_line(error)}); "
                        "try --device=cpu") from error
    if precision == "auto":
        precision = "bf16" if _is_faster_in_bf16(torch.device(name).type) else "fp32"
    return Device(name, precision)


def settled(compute: Compute, processes: int = 1) -> tuple[Device, Compute]:
    """Choose and set up the device and threads of this process, one of ``processes``.

    Returns the device, and ``compute`` with precision and threads settled.

    Raises UserError for a device that torch cannot use here.
    """
    device = pick(compute.device, compute.precision)
    threads = compute.threads or max(torch.get_num_threads() // processes, 1)
    settle(device, threads)
    return device, replace(compute, precision=device.precision, threads=threads)


def take_gpu(number: int) -> None:
    """Make "cuda" mean GPU ``number`` modulo the number of GPUs, in this process. No effect without several GPUs."""
    if torch.cuda.device_count() > 1:
        torch.cuda.set_device(number % torch.cuda.device_count())


def settle(device: Device, threads: int) -> None:
    """Set up torch in this process, so that the same seed and number of threads give the same result."""
    torch.set_num_threads(threads)
    if device.name == "cpu":
        keep_memory()
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = device.precision != "fp32"
    if device.name.startswith("cuda:"):
        torch.cuda.set_device(device.name)  # CUDA graphs are captured on the current one


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn torch's errors for too little memory, on a GPU or a CPU, into MemoryError."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            torch.cuda.empty_cache()
        elif "DefaultCPUAllocator" not in str(error):
            raise
        raise MemoryError(first_line(error)) from error


def keep_memory(*, large: bool = False) -> None:
    """Keep the memory that a step frees: new memory comes from the system page by page, zeroed, a tenth of the time.

    large: blocks of 32 MB and more too, which may then lie in pieces that fit nothing else.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return
    mallopt(M_MMAP_THRESHOLD, 32 << 20)  # bytes: as much as it takes
    mallopt(M_TRIM_THRESHOLD, 2 ** 31 - 1)
    if large:
        mallopt(M_MMAP_MAX, 0)


def _is_faster_in_bf16(kind: str) -> bool:
    """Whether convolutions are faster in bfloat16: emulated, they are slower. A processor that has instructions for it
    is timed, since some are slower with them too."""
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities()
    if kind != "cpu" or not any(able.get(name) for name in ("avx512_bf16", "amx_bf16")):
        return False
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several wait for each other where other programs run
    timed = {dtype: _convolution(dtype) for dtype in (torch.float32, torch.bfloat16)}
    seconds: dict[torch.dtype, list[float]] = {dtype: [] for dtype in timed}
    for _ in range(ROUNDS):
        for dtype, run in timed.items():
            began = time.perf_counter()
            run()
            seconds[dtype].append(time.perf_counter() - began)
    torch.set_num_threads(threads)
    return min(seconds[torch.bfloat16]) < FASTER * min(seconds[torch.float32])


def _convolution(dtype: torch.dtype) -> Callable[[], object]:
    """A call that runs a convolution of 64 channels, forwards and backwards; it has run once."""
    x, gradient, weight = (torch.ones(shape, dtype=dtype).contiguous(memory_format=torch.channels_last)
                           for shape in ((8, 64, 16, 16), (8, 64, 16, 16), (64, 64, 3, 3)))

    def run() -> object:
        inputs = x.requires_grad_(), weight.requires_grad_()
        return torch.autograd.grad(F.conv2d(*inputs, padding=1), inputs, gradient)
    run()
    return run
