"""Call one function on many tasks in parallel, in processes of this machine or on a Ray cluster, through joblib.

If a worker dies, a new one repeats its task. If a worker finds too little memory, half of the workers go on. Both are
reported.
"""

import atexit
import logging
import os
import pickle
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Callable

from utils.common.errors import UserError, first_line

MAPPED_BYTES = 10_000  # the workers of this machine share larger arrays, as memory-mapped files


class Workers:
    """``with Workers(jobs, backend) as workers``: processes that live until the block ends.

    backend: "local", or "ray" for the cluster of RAY_ADDRESS, by default the one that this machine belongs to.
    packages: folders of modules that a cluster's machines need. gpu: a cluster's worker takes a GPU, not a CPU.
    Raises UserError if Ray or its cluster is missing.
    """

    def __init__(self, jobs: int, backend: str = "local", *, packages: Sequence[str] = (), gpu: bool = False):
        self.jobs, self.backend, self._gpu = jobs, backend, gpu
        self._stack, self._fruitless = ExitStack(), 0
        self._address = ""  # of a cluster's head
        if backend == "ray":
            kind = "GPU" if gpu else "CPU"
            held, self._address = _join_cluster(packages, kind)
            if held < jobs:
                print(f"--jobs={jobs}: the cluster has {held} {kind}s; going on with {held} workers", flush=True)
                self.jobs = held

    def __enter__(self) -> "Workers":
        self._start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stop()
        if self.backend == "ray":
            import ray  # pyright: ignore[reportMissingImports]
            ray.shutdown()

    def results(self, function: Callable, common: tuple[Mapping, ...], tasks: Sequence[Any]) -> Iterator[Any]:
        """Yield ``function(*common, task)`` for every task, in the order of completion.

        common: dicts, whose arrays are sent once and not with every task. A cluster yields its results in rounds, one
        task per worker. A single worker is this process itself. Raises UserError if that has too little memory.
        """
        try:
            yield from self._results(function, common, tasks)
        except GeneratorExit:  # unfinished tasks must not appear among the next results
            self._stop()
            self._start()
            raise

    def _results(self, function: Callable, common: tuple[Mapping, ...], tasks: Sequence[Any]) -> Iterator[Any]:
        left = dict(enumerate(tasks))
        while left:
            before = len(left)
            try:
                for number, result in self._sweep(function, common, left):
                    if not isinstance(result, MemoryError):
                        del left[number]
                        yield result
                word = "found too little memory" if left else ""
            except self._deaths() as error:
                word = f"died ({type(error).__name__}: killed?)"
            except pickle.PicklingError as error:
                raise UserError(f"no room for the workers' arrays ({first_line(error.__cause__ or error)}); free some "
                                "in the temporary folder, or name another one with JOBLIB_TEMP_FOLDER") from error
            except Exception as error:  # Ray raises many kinds when its cluster goes
                if self._address and not _answers(self._address):
                    raise UserError(f"--backend=ray: the cluster is gone; {GONE}") from error
                raise
            if left:
                self._again(word, len(left), any_done=len(left) < before)

    def _again(self, word: str, count: int, any_done: bool) -> None:
        """Restart for the tasks left, with half the workers if memory is short or two sweeps died without a result."""
        if self.jobs == 1:
            raise UserError("one task alone found too little memory; a smaller --batch_size needs less. What was "
                            "finished is kept, --resume goes on")
        self._stop()
        self._fruitless = 0 if any_done else self._fruitless + 1
        if "memory" in word or self._fruitless > 1:
            self.jobs //= 2
        by = f"{self.jobs} workers" if self.jobs > 1 else "this process alone"
        print(f"  a worker {word}; {count} {'is' if count == 1 else 'are'} done again, by {by}", flush=True)
        self._start()

    def _start(self) -> None:
        from joblib import Parallel, parallel_config
        self._stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", module="joblib")  # it warns of cancelled tasks after an interruption
        options: dict[str, Any] = {"n_jobs": self.jobs, "batch_size": 1}
        if self.backend == "ray":
            more: dict[str, Any] = {"ray_remote_args": {"num_gpus": 1}} if self._gpu else {}
            self._stack.enter_context(parallel_config(backend="ray", **more))
            self._parallel = self._stack.enter_context(Parallel(**options, max_nbytes=None))
        else:
            options.update(backend="loky", pre_dispatch=self.jobs, mmap_mode="c", max_nbytes=MAPPED_BYTES,
                           return_as="generator_unordered", initializer=_end_with, initargs=(os.getpid(),))
            with _interrupts_ignored():
                self._parallel = self._stack.enter_context(Parallel(**options))

    def _stop(self) -> None:
        self._stack.close()
        if self.backend != "ray" and self.jobs > 1:  # joblib would keep them and their memory for later
            from joblib.externals.loky import get_reusable_executor
            executor: Any = get_reusable_executor(reuse=True)  # pyright: ignore[reportArgumentType]
            executor.terminate(kill_workers=True)  # also deletes the files of their arrays

    def _sweep(self, function: Callable, common: tuple[Mapping, ...],
               left: Mapping[int, Any]) -> Iterator[tuple[int, Any]]:
        from joblib import delayed
        parallel: Any = self._parallel
        calls = [delayed(_guarded)(function, number, task, *common) for number, task in list(left.items())]
        if self.backend != "ray":
            with _interrupts_ignored():
                results = parallel(calls)
            yield from results
            return
        for start in range(0, len(calls), self.jobs):
            yield from parallel(calls[start:start + self.jobs])

    def _deaths(self) -> tuple[type[Exception], ...]:
        from joblib.externals.loky import BrokenProcessPool
        if self.backend != "ray":
            return (BrokenProcessPool,)
        from ray.exceptions import OutOfMemoryError, RayActorError, WorkerCrashedError  # pyright: ignore[reportMissingImports]
        return (OutOfMemoryError, RayActorError, WorkerCrashedError)


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Processes that start inside the block ignore Ctrl-C: this process answers it. The block lasts milliseconds."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def worker_number() -> int:
    """The number of this worker process; numbers on one machine are consecutive. 0 in a process that is no worker."""
    import multiprocessing
    kind, _, number = multiprocessing.current_process().name.rpartition("-")  # loky counts the processes that it starts
    return int(number) if kind.startswith("Loky") and number.isdigit() else 0


def _end_with(parent: int) -> None:
    """End this process soon after its parent, whose pid is ``parent``, is killed."""
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)
    threading.Thread(target=watch, daemon=True).start()


def _guarded(function: Callable, number: int, task: Any, *common: Any) -> tuple[int, Any]:
    try:
        return number, function(*common, task)
    except MemoryError as error:
        return number, MemoryError(str(error))


# --- Ray -------------------------------------------------------------------------------------------------------

GONE = "what was finished is kept. To go on here, run the same command with --resume and without --backend=ray"


def outlive_ray() -> None:
    """Fork: the child goes on, and this process waits for it. When its cluster is gone, Ray may end the child without a
    message; then this process reports it.

    Returns in the child only. Call it before any thread starts.
    """
    ear, mouth = os.pipe()
    parent, child = os.getpid(), os.fork()
    if child == 0:
        os.close(ear)
        _end_with(parent)
        atexit.register(os.write, mouth, b".")  # tells that Python ended normally, with any exit code
        return
    os.close(mouth)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the child answers it
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    os.set_blocking(ear, False)
    with suppress(BlockingIOError):
        if os.read(ear, 1):
            os._exit(code)
    if code == -signal.SIGTERM:
        os._exit(128 + signal.SIGTERM)
    if code not in (0, 2):
        how = f"exit code {code}" if code > 0 else f"signal {-code}"
        print(f"error: --backend=ray: ended without a message ({how}), as Ray does when its cluster is gone; {GONE}",
              file=sys.stderr, flush=True)
    os._exit(2 if code else 0)


def _join_cluster(packages: Sequence[str], kind: str) -> tuple[int, str]:
    """Join the cluster as a driver. Returns the number of its CPUs or GPUs (``kind``; a worker takes one) and the
    address of its head. Raises UserError."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its log is for the cluster's administrator
    quiet_cleaner = "ignore:resource_tracker:UserWarning"  # joblib's: it removes what a lost driver leaves, and warns
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, (os.environ.get("PYTHONWARNINGS"), quiet_cleaner)))
    try:
        import ray  # pyright: ignore[reportMissingImports]
        from ray.util.joblib import register_ray  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(f"--backend=ray: Ray is not installed ({error}); pip install ray, or leave the "
                        "flag out") from error
    try:
        _knock(os.environ.get("RAY_ADDRESS", ""))
        ray.init(address="auto", runtime_env={"py_modules": list(packages)}, log_to_driver=False,
                 logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"--backend=ray: no Ray cluster ({first_line(error)}); start one with `ray start --head`, name "
                        "one with RAY_ADDRESS, or leave the flag out") from error
    register_ray()
    address = ray.get_runtime_context().gcs_address
    threading.Thread(target=_watch, args=(address,), daemon=True).start()
    held = int(ray.cluster_resources().get(kind, 0))
    if not held:
        raise UserError(f"--backend=ray: the cluster has no {kind}; try --device=cpu, or leave --backend out")
    return held, address


def _watch(address: str) -> None:
    """End this process with a message when the cluster's head no longer answers: Ray would end it without one."""
    silent = 0
    while silent < 3:
        time.sleep(1)
        silent = 0 if _answers(address) else silent + 1
    import ray  # pyright: ignore[reportMissingImports]
    if ray.is_initialized():
        print(f"error: --backend=ray: the cluster is gone; {GONE}", file=sys.stderr, flush=True)
        os._exit(2)


def _answers(address: str) -> bool:
    """Whether a server listens at host:port."""
    try:
        _knock(address)
    except OSError:
        return False
    return True


def _knock(address: str) -> None:
    """Raise OSError unless a server listens at host:port; Ray itself would go on trying for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), timeout=5).close()
