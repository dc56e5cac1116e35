"""Look at a board before anything is measured on it, and say what to change."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

from utils.common.errors import UserError
from utils.latency import board, writing
from utils.latency.board import Conditions
from utils.latency.measure import Source, Work
from utils.latency.note import about_tool
from utils.latency.runners import NO_DELEGATE, Model, Runner, patiently
from utils.latency.timing import Care

TIMED = 24  # entries from which the time of a table is estimated, and a network or two


@dataclass(frozen=True)
class Check:
    """What was found."""

    device: dict[str, str]
    conditions: Conditions
    tool: dict[str, Any]  # as in a note; {} if there is none
    trouble: Optional[str]  # why nothing can be timed
    num_threads: int
    entries: int  # of the table
    table_s: Optional[float]  # seconds that a quiet machine takes to measure it; None: not known
    max_temp_c: Optional[float]

    @property
    def delegate(self) -> Optional[str]:
        return self.tool.get("delegate")

    @property
    def advice(self) -> list[str]:
        """What to change, and how."""
        found = list(board.advice(self.device, self.conditions, self.num_threads))
        if self.delegate == NO_DELEGATE:
            found.append("the runtime does not use XNNPACK, so that layers are slower and rank otherwise than in a "
                         "runtime that does: the table has to be measured with the runtime that will run the network")
        return found

    def lines(self) -> Iterator[str]:
        """For people."""
        runtime = " ".join(str(self.tool[k]) for k in ("runtime", "version", "binary") if k in self.tool) or "none"
        runtime += f", {self.num_threads} thread{'s' * (self.num_threads > 1)}, delegate {self.delegate or 'not known'}"
        limit = "no limit is known" if self.max_temp_c is None else f"pauses above {self.max_temp_c:.0f} °C"
        takes = "not known" if self.table_s is None else (
            f"about {_duration(self.table_s)} on a quiet machine, longer on a busy one")
        for subject, words in (*board.in_words(self.device, self.conditions), ("measuring", limit),
                               ("runtime", runtime), ("table", f"{self.entries:,} entries, {takes}")):
            yield f"{subject:12}{words}"
        yield f"to change   {'nothing' if not self.advice else ''}".rstrip()
        for number, line in enumerate(self.advice, 1):
            yield f"{number:4}  {line}"

    def as_json(self) -> dict[str, Any]:
        return {"device": self.device, "conditions": self.conditions.as_json(), "tool": self.tool,
                "trouble": self.trouble, "entries": self.entries, "table_s": self.table_s,
                "max_temp_c": self.max_temp_c, "advice": self.advice}


def look(work: Work, source: Source, runner: Runner, care: Care) -> Check:
    """Look at this machine, and estimate how long it would take to measure ``work``."""
    now, tool, trouble, table_s = board.conditions(), {}, None, None
    try:
        tool = about_tool(runner)
        table_s = _estimate(work, source, runner, care) if writing.tflite_writer() else None
    except UserError as error:
        trouble = str(error)
    return Check(board.this_machine(), now, tool, trouble, runner.num_threads, len(work.wanted), table_s,
                 care.max_temp_c)


def _estimate(work: Work, source: Source, runner: Runner, care: Care) -> float:
    """Seconds of all passes, from the visits of some entries and networks. Raises UserError."""
    def visit_s(make) -> float:
        began = time.monotonic()
        model: Model = make()
        patiently(lambda: model, runner, "an entry")(care.runs)
        return time.monotonic() - began

    network, random = work.entries.network, np.random.default_rng(care.seed)
    some = random.choice(work.wanted, min(TIMED, len(work.wanted)), replace=False)
    entries = [visit_s(lambda n=int(n): source.entry(*work.entries[n])) for n in some]
    networks = [visit_s(lambda w=widths: source.network(network, w)) for widths in work.networks[:2]]
    of_networks = work.first_entry * np.mean(networks) if networks else 0.0
    return float(care.passes * (len(work.wanted) * np.mean(entries) + of_networks))


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes" if seconds < 7200 else (
        f"{seconds / 3600:.1f} hours")
