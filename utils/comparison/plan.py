"""The plan of a comparison: its networks, the commands that make each, and the row of a finished one."""

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from model.architectures import has_siblings
from model.network import Network, Widths
from utils.common import cli
from utils.common.cli import HOLDOUT_PROP
from utils.comparison import grid
from utils.comparison.jobs import Job
from utils.comparison.results import Row
from utils.comparison.settings import TRAINED_ONLY, Comparison
from utils.latency.tables import Corrected, latency_s
from utils.learning import checkpoint
from utils.search import netadapt

LONGEST = 80  # characters of a network's name


@dataclass(frozen=True)
class Task:
    """A network to make."""

    method: str  # a method of prune.py, grid or unpruned
    flags: tuple[str, ...]  # of prune.py, the method's own
    pruning_fact: float  # NaN: unpruned
    seed: int
    network: Network  # that is pruned, or trained as it is

    @property
    def criterion(self) -> str:
        return " ".join(self.flags).replace("--pruning_method=", "").replace("--", "")

    @property
    def name(self) -> str:
        words = [self.method, *self.flags, *([self.network.short_name] if self.method == "grid" else []),
                 *([] if math.isnan(self.pruning_fact) else [repr(self.pruning_fact)]), f"seed{self.seed}"]
        whole = re.sub(r"[^\w.]+", "-", "-".join(words))
        lost = any(re.search(r"[^\w.=-]", flag) for flag in self.flags)  # two patterns of --keep may look alike then
        if len(whole) <= LONGEST and not lost:
            return whole
        digest = hashlib.sha256(("-".join(words) if lost else whole).encode()).hexdigest()[:8]
        return f"{whole[:LONGEST - 9]}-{digest}"


@dataclass(frozen=True)
class Base:
    """The base network of a comparison, and the tables that predict latencies."""

    content: dict[str, Any]  # of the checkpoint
    path: Path
    table_path: Path
    network: Network
    widths: Widths
    table: Corrected
    grid_network: Network  # no network of the grid is wider
    grid_table: Corrected  # of that network

    def latency_s(self, widths: Widths) -> float:
        return latency_s(self.network, widths, self.table)

    def grid_latency_s(self, network: Network) -> float:
        return latency_s(network, network.full_widths, self.grid_table)

    def budget_s(self, pruning_fact: float) -> float:
        return netadapt.budget_s(netadapt.Settings(pruning_fact), self.latency_s(self.widths))


def tasks_of(asked: Comparison, base: Base) -> Iterator[Task]:
    """Yield the networks to make, seed by seed, so that an interrupted comparison has some of every method."""
    grids: dict[float, list] = {pruning_fact: [] for pruning_fact in asked.pruning_facts}
    if ("grid",) in asked.methods and not has_siblings(base.network):
        print(f"grid: left out, {base.network.short_name} is of no architecture and has no smaller siblings",
              flush=True)
    elif ("grid",) in asked.methods:
        budgets_s = {pruning_fact: base.budget_s(pruning_fact) for pruning_fact in asked.pruning_facts}
        grids = grid.networks(base.grid_network, base.grid_latency_s, asked.grid_depths, budgets_s)
    for seed in asked.seeds:
        for method, *flags in asked.methods:
            if method == "unpruned":
                yield Task(method, (), math.nan, seed, base.network)
                continue
            for pruning_fact in asked.pruning_facts:
                for network in grids[pruning_fact] if method == "grid" else [base.network]:
                    yield Task(method, tuple(flags), pruning_fact, seed, network)


def job_of(asked: Comparison, base: Base, folder: Path, task: Task) -> Job:
    """The commands that make a network: prune, retrain from scratch, export."""
    name = task.name
    data = [f"--dataset={asked.dataset}", f"--data_loc={Path(asked.data_loc).expanduser().resolve()}"]
    run = [f"--seed={task.seed}", f"--threads={asked.threads}", f"--precision={asked.precision}", "--resume"]
    train = ["train.py", *cli.network_flags(task.network), *data, *run, *asked.train_flags,
             f"--holdout_prop={base.content['holdout_prop'] or HOLDOUT_PROP}", f"--save_file={name}",
             *([f"--teacher={asked.teacher}"] if asked.teacher else [])]  # absolute: commands run elsewhere
    todo = []
    if task.method == "unpruned":
        train.append("--channels=base")
    elif task.method != "grid":
        todo.append(["prune.py", f"--base_model={base.path}", f"--perf_table={base.table_path}", *data, *run,
                     f"--method={task.method}", f"--pruning_fact={task.pruning_fact}", *asked.prune_flags, *task.flags,
                     f"--save_file={name}-pruned"])
        train.append(f"--channels={name}-pruned")
    todo.append(train)
    if asked.measured:
        todo.append(["export.py", f"--checkpoint={name}", f"--output={exported(name)}", "--no_measure", *data])
    return Job(name, str(folder), f"logs/{name}.log", tuple(map(tuple, todo)))


def exported(name: str) -> Path:
    """The network's file for the device, relative to the comparison's folder."""
    return Path("exported") / f"{name}.tflite"


def row_of(base: Base, folder: Path, task: Task) -> Row:
    """The row of a finished network, from its checkpoints."""
    made = checkpoint.load(folder / "checkpoints" / f"{task.name}.t7")
    pruned = {} if task.method in TRAINED_ONLY else checkpoint.load(folder / "checkpoints" / f"{task.name}-pruned.t7")
    widths = made["widths"]
    predicted_s = base.grid_latency_s(task.network) if task.method == "grid" else base.latency_s(widths)
    return Row(task.name, task.method, task.criterion, task.network.short_name, str(task.seed), task.pruning_fact,
               pruned.get("test_error", math.nan), made["error_history"][-1], predicted_s,
               parameters=task.network.parameter_count(widths), macs=task.network.multiply_adds(widths),
               made_by=str(made.get("made_by", "")))


def row_for(task: Task, rows: Mapping[str, Row]) -> Optional[Row]:
    """The task's row, also under another name that an older version gave it, or that of the same network of the grid,
    made for another latency."""
    if task.name in rows:
        return rows[task.name]
    wanted = (task.method, task.criterion, task.network.short_name, str(task.seed))
    return next((row for row in rows.values() if (row.method, row.criterion, row.network, row.seed) == wanted
                 and (task.method == "grid" or row.pruning_fact == task.pruning_fact)), None)
