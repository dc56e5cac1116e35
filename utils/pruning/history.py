"""The records of a run: lines of its journal while it runs, and of its history when it has ended.

    {"event": "start", ...}        first: what was asked for, from which network, by which table, made by which version
    {"event": "trial", ...}        a candidate judged at a rung; in the journal alone
    {"event": "network", ...}      of --method=trade: a network judged by its training from scratch
    {"event": "candidate", ...}    of a step that was adopted: how far a candidate went, and why no further
    {"event": "step", ...}         a step adopted
    {"event": "end", ...}          last; in the history with a checksum of all records
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Optional

from model.network import Network, Widths
from utils.common import checksum
from utils.common.errors import UserError
from utils.common.journal import Record
from utils.common.provenance import check_format
from utils.search.halving import Fate, Rung
from utils.search.netadapt import Candidate, Key, Proposal, Step

FORMAT = 1
Trials = dict[tuple[Key, str], tuple[float, float]]  # (error in %, loss) by candidate and name of its rung
# training losses of networks, by key_of their widths, the number of epochs and the part of the images
Losses = dict[tuple[str, int, float], float]


def trial(step: int, rung: Rung, candidate: Candidate) -> Record:
    return {"event": "trial", "step": step, "rung": rung.name, **asdict(candidate.proposal),
            "error_pct": _known(candidate.error_pct), "loss": _known(candidate.loss)}


def trials_in(records: Iterable[Mapping[str, Any]]) -> Trials:
    """{(candidate, rung name): (error, loss)} of these trial records."""
    def figure(record: Mapping[str, Any], key: str) -> float:
        return float("nan") if record.get(key) is None else record[key]

    return {((r["group"], r["proposed_width"]), r["rung"]): (figure(r, "error_pct"), figure(r, "loss"))
            for r in records if r["event"] == "trial"}


def key_of(widths: Widths) -> str:
    return json.dumps(widths, sort_keys=True)


def judged(network: Network, widths: Widths, latency_s: float, epochs: int, part: float, loss: float) -> Record:
    """A network that was trained from scratch for so many epochs on a part of the images; a loss of None: it became
    NaN."""
    return {"event": "network", "step": 1, "widths": dict(widths), "latency_s": latency_s,
            "parameters": network.parameter_count(widths), "macs": network.multiply_adds(widths), "epochs": epochs,
            "part": part, "loss": loss if math.isfinite(loss) else None}


def losses_in(records: Iterable[Mapping[str, Any]]) -> Losses:
    """The training losses in these records, but for those of older versions."""
    return {(key_of(r["widths"]), r["epochs"], r.get("part", 1.0)): math.inf if r["loss"] is None else r["loss"]
            for r in records if r["event"] == "network" and "epochs" in r}


def adopted(step: Step) -> Record:
    """A step of the search."""
    return {"event": "step", "step": step.state.step, **asdict(step.chosen.proposal), "error_pct": step.state.error_pct,
            "latency_s": step.latency_s, "target_gain_s": step.target_gain_s}


def adopted_at_once(step: int, method: str, before: Widths, after: Widths, error_pct: float,
                    latency_s: float) -> Record:
    """A step of a method that tries no candidates; most have one."""
    return {"event": "step", "step": step, "method": method, "error_pct": error_pct, "latency_s": latency_s,
            "widths": {g: [before[g], w] for g, w in after.items() if w != before[g]}}


def candidates_of(step: Step, fates: Mapping[Key, Fate], trials: Trials, rungs: Sequence[Rung]) -> Iterator[Record]:
    """For every candidate of the step how far it went and why no further; then those that were not drawn."""
    for key, fate in fates.items():
        found = fate.candidate
        errors = {rung.name: _known(trials[key, rung.name][0]) for rung in rungs if (key, rung.name) in trials}
        yield {"event": "candidate", "step": step.state.step, **asdict(found.proposal), "rung": fate.rung.name,
               "batches": fate.rung.batches, "error_pct": _known(found.error_pct),
               "growth_pct": _known(found.growth_pct), "growth_pct_per_s": _known(found.ratio), "errors_pct": errors,
               "loss": _known(found.loss), "loss_growth": _known(found.loss_growth),
               "stopped": "chosen" if found.proposal == step.chosen.proposal else fate.stopped}
    for proposal in step.left_out:
        yield _not_drawn(step.state.step, proposal)


def _not_drawn(step: int, proposal: Proposal) -> Record:
    return {"event": "candidate", "step": step, **asdict(proposal), "rung": None, "batches": 0,
            "error_pct": None, "growth_pct": None, "growth_pct_per_s": None, "errors_pct": {}, "loss": None,
            "loss_growth": None, "stopped": "not drawn"}


def written(records: Sequence[Record]) -> str:
    """The history: a JSON line for each record. The last has the checksum of all."""
    last = {**records[-1], checksum.KEY: checksum.sha256_of_content(list(records))}
    return "".join(json.dumps(r) + "\n" for r in [*records[:-1], last])


def header_of(path: Path) -> Record:
    """The first record of a history; {} where there is no history. Raises UserError where it is damaged or newer."""
    if not path.exists():
        return {}
    advice = "restore it, or leave out --resume to replace it"
    try:
        records = [json.loads(text) for text in path.read_text().splitlines()]
        first, last = dict(records[0]), dict(records[-1])
    except (ValueError, TypeError, IndexError, RecursionError) as error:
        raise UserError(f"{path}: not a whole history ({type(error).__name__}); {advice}") from None
    check_format(path, first, FORMAT)
    expected = last.pop(checksum.KEY, None)
    if expected not in (None, checksum.sha256_of_content([*records[:-1], last])):
        raise UserError(f"{path}: damaged or edited, it does not match the checksum in its last line; {advice}")
    checksum.note_without(path, records[-1])
    return first


def is_record(record: Any) -> bool:
    """Whether this is a line that a run writes after its first."""
    if not isinstance(record, dict) or record.get("event") not in ("trial", "network", "candidate", "step", "end"):
        return False
    if record["event"] == "network" and not (
            isinstance(record.get("widths"), dict) and isinstance(record.get("epochs", 0), int)
            and isinstance(record.get("part", 1.0), (int, float)) and (
                record.get("loss", "") is None or isinstance(record.get("loss"), (int, float)))):
        return False
    number = isinstance(record.get("step"), int) or record["event"] == "end"
    return number and (record["event"] != "trial" or (
        isinstance(record.get("group"), str) and isinstance(record.get("proposed_width"), int)
        and isinstance(record.get("rung"), str)
        and all(record.get(k) is None or isinstance(record[k], (int, float)) for k in ("error_pct", "loss"))))


def _known(value: float) -> Optional[float]:
    """None for NaN, which JSON lacks."""
    return value if value == value else None
