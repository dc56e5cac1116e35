"""Settings of a comparison, as plain values."""

from dataclasses import dataclass
from pathlib import Path
from typing import Optional

TRAINED_ONLY = ("grid", "unpruned")  # methods that prune nothing: smaller networks, and the network as it is


@dataclass(frozen=True)
class Comparison:
    methods: tuple[tuple[str, ...], ...]  # each with its own flags of prune.py, in a standard spelling
    pruning_facts: tuple[float, ...]  # parts of the latency to remove
    seeds: tuple[int, ...]
    grid_depths: tuple[int, ...]
    prune_flags: tuple[str, ...]
    train_flags: tuple[str, ...]
    dataset: str
    data_loc: str
    teacher: Optional[Path]
    precision: str  # in which all networks are trained: fp32 or bf16; auto: an older comparison, which chose for each
    jobs: int  # networks that are made at a time
    threads: Optional[int]  # of each of them
    num_threads: Optional[int]  # of the runtime that measures; None: the table's
    measured: bool  # False: neither export nor measure
