"""How much memory there is, and how much a process that fine-tunes a network takes."""

import math
from pathlib import Path
from typing import Optional

from model.network import Network, Widths
from utils.search.halving import RECALIBRATION, ladder

PROCESS_BYTES = 600e6  # a Python with torch loaded, before it has done anything
BYTES_PER_VALUE = 12  # of a layer's float32 output: kept for the backward pass or for a second reader, and copies


def needed_bytes(network: Network, widths: Widths, batch_size: int, search: str) -> float:
    """An estimate of the most bytes that a process needs to make candidates of this network, without the images.

    Fine-tuning keeps every layer's output for one batch; scoring keeps one layer's output for all its images.
    """
    outputs = [layer.cout * math.prod(layer.out_sides) for layer in network.layers(widths)]
    scored = max(rung.images or 0 for rung in ladder(search, 1)) + RECALIBRATION * batch_size * (search == "halving")
    return PROCESS_BYTES + BYTES_PER_VALUE * max(batch_size * sum(outputs), scored * max(outputs))


def available_bytes() -> Optional[float]:
    """Memory that is free or can be freed, of this machine or of the container; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    free = [1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    for limit, used in (("memory.max", "memory.current"),
                        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")):
        try:
            free.append(float((Path("/sys/fs/cgroup") / limit).read_text())
                        - float((Path("/sys/fs/cgroup") / used).read_text()))
        except (OSError, ValueError):  # no such limit, or "max"
            continue
    return min(free, default=None)


def jobs_that_fit(jobs: int, each_bytes: float) -> int:
    """At most ``jobs`` processes, as many as the memory holds, but at least one."""
    available = available_bytes()
    return jobs if available is None else max(min(jobs, int(available // each_bytes)), 1)
