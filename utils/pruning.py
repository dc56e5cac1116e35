"""One pruning run on the disk and in memory: candidates tried, steps adopted, everything resumable.

While a run is unfinished it lives in three files, and ends by turning them into its results:

    history/NAME.unfinished.jsonl       the journal: the start, every candidate, every step
    checkpoints/NAME.unfinished.t7      the network after the last step, a checkpoint like any other
    checkpoints/NAME.candidate.t7       the best candidate so far of the step in hand
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

from model.torch_net import TorchNet
from utils import checkpoint, journal, netadapt, surgery, training
from utils.data import Images
from utils.errors import UserError
from utils.files import write_whole


@dataclass(frozen=True)
class Files:
    """Where a run keeps what: its results, and its unfinished state."""

    checkpoint: Path
    channels: Path
    history: Path
    picture: Path
    journal: Path
    current: Path
    candidate: Path

    def remove_unfinished(self) -> None:
        for path in (self.journal, self.candidate, self.current):
            path.unlink(missing_ok=True)


def files_of(name: str) -> Files:
    checkpoints, history = Path("checkpoints"), Path("history")
    return Files(checkpoint=checkpoints / f"{name}.t7", channels=Path("nbr_channels") / f"{name}.pickle",
                 history=history / f"{name}.jsonl", picture=history / f"{name}.png",
                 journal=history / f"{name}.unfinished.jsonl", current=checkpoints / f"{name}.unfinished.t7",
                 candidate=checkpoints / f"{name}.candidate.t7")


@dataclass(frozen=True)
class FineTuning:
    """How candidates are fine-tuned, and on which images they are judged (never the same ones)."""

    source: training.BatchSource
    held_out: Images  # on the device
    learning_rate: float
    momentum: float
    weight_decay: float
    seed: int

    def tune(self, model: TorchNet, batches: int, *seeds: int) -> bool:
        """Fine-tune in place; False if the loss became NaN."""
        optimizer = training.sgd(model, self.learning_rate, self.momentum, self.weight_decay)
        loss = training.fit(model, optimizer, self.source.batches(batches, self.seed, *seeds))
        return loss == loss

    def error_pct(self, model: TorchNet) -> float:
        return training.error_pct(model, self.held_out, self.source.normalisation)


@dataclass
class Run:
    """The state of a run. ``evaluate`` is what netadapt.search asks; ``adopt`` takes each step it yields."""

    files: Files
    log: journal.Journal
    tuning: FineTuning
    short_term_fine_tune: int  # batches per candidate
    criterion: str
    carried: Dict[str, Any]  # keys of the checkpoint that pruning does not change: epoch, holdout_prop, flags
    model: TorchNet  # after the last step, on its device
    error_history: List[float]  # held-out error, %: of the unpruned network, then after every step
    table_costs_history: List[float]  # predicted seconds, likewise
    prune_history: List[Dict[str, Any]] = field(default_factory=list)  # the step records of the journal
    tried: Dict[str, float] = field(default_factory=dict)  # errors of the candidates of the step in hand, by group
    best: Optional[Tuple[TorchNet, netadapt.Candidate]] = None  # of the step in hand

    def evaluate(self, step: int, proposal: netadapt.Proposal) -> float:
        """Error in % of a candidate after its short fine-tuning; NaN if its loss was no number any more."""
        if proposal.group in self.tried:
            return self.tried[proposal.group]
        candidate, sound = self._build(step, proposal)
        error = self.tuning.error_pct(candidate) if sound else float("nan")
        result = netadapt.Candidate(proposal, error, error - self.error_history[-1])
        rivals = [self.best[1]] if self.best else []
        if netadapt.choose(rivals + [result], self.criterion) is result:
            self.best = (candidate, result)
            self.save(self.files.candidate, candidate, candidate={"step": step, "group": proposal.group})
        self.log.append({"event": "candidate", "step": step, **asdict(proposal), "error_pct": _number(error),
                         "growth_pct": _number(result.growth_pct), "growth_pct_per_s": _number(result.ratio)})
        self.tried[proposal.group] = error
        print(f"  {proposal.group:<12}{proposal.width:>4} -> {proposal.proposed_width:<4} gains "
              f"{proposal.gain_s * 1e3:8.4f} ms   error " + (f"{error:6.2f}%" if sound else "NaN, out of this step"),
              flush=True)
        return error

    def adopt(self, step: netadapt.Step) -> None:
        """Make the chosen candidate the network, and keep the step."""
        chosen = step.chosen.proposal
        if self.best and self.best[1].proposal == chosen:
            self.model = self.best[0]
        else:  # its file was lost between two runs; the same seeds give the same network again
            self.model, _ = self._build(step.state.step, chosen)
        record = {"event": "step", "step": step.state.step, **asdict(chosen), "error_pct": step.state.error_pct,
                  "latency_s": step.latency_s, "target_gain_s": step.target_gain_s}
        self.log.append(record)
        self.log.sync()
        self.prune_history.append(record)
        self.error_history.append(step.state.error_pct)
        self.table_costs_history.append(step.latency_s)
        self.save(self.files.current, self.model)
        self.tried, self.best = {}, None

    def _build(self, step: int, proposal: netadapt.Proposal) -> Tuple[TorchNet, bool]:
        """The pruned and fine-tuned candidate, and whether its loss stayed a number."""
        scores = surgery.channel_scores(self.model, proposal.group)
        keep = surgery.best_channels(scores, proposal.proposed_width)
        candidate = surgery.slice_channels(self.model, {proposal.group: keep})
        candidate = training.on_device(candidate, candidate.device)
        order = [g.name for g in self.model.network.groups].index(proposal.group)
        return candidate, self.tuning.tune(candidate, self.short_term_fine_tune, step, order)

    def save(self, path: Path, model: TorchNet, **more: Any) -> None:
        checkpoint.save(path, model, self.tuning.source.normalisation, error_history=self.error_history,
                        prune_history=self.prune_history, table_costs_history=self.table_costs_history,
                        **self.carried, **more)

    def take_up_candidates(self, done: List[Dict[str, Any]]) -> None:
        """Go on inside a step: the errors of its candidates that are ``done``, and the best network among them."""
        self.tried = {r["group"]: float("nan") if r["error_pct"] is None else r["error_pct"] for r in done}
        if not done or not self.files.candidate.exists():
            return
        try:
            content = checkpoint.load(self.files.candidate)
        except UserError:
            return  # it can be made again
        for r in done:
            if content.get("candidate") == {"step": r["step"], "group": r["group"]}:
                model = training.on_device(checkpoint.build(content, self.files.candidate), self.model.device)
                proposal = netadapt.Proposal(r["group"], r["width"], r["proposed_width"], r["gain_s"])
                self.best = (model, netadapt.Candidate(proposal, r["error_pct"], r["growth_pct"]))

    def finish(self, end: Dict[str, Any]) -> None:
        """Turn the journal into the history, after every other result is written."""
        self.log.append({"event": "end", **end})
        write_whole(self.files.history, self.files.journal.read_bytes())
        self.files.remove_unfinished()

    def guarded(self, steps: Iterator[netadapt.Step]) -> Iterator[netadapt.Step]:
        """``steps``; where the search finds no way on, leave nothing that was not worth a step, and say what there is."""
        try:
            yield from steps
        except UserError as error:
            if not self.prune_history:
                self.files.remove_unfinished()
                raise
            raise UserError(f"{error}, with another --save_file. What was reached is {self.files.current}, a checkpoint "
                            "like any other") from error


def _number(value: float) -> Optional[float]:
    return value if value == value else None


def take_up(files: Files, header: Dict[str, Any], *, resume: bool) -> Tuple[Optional[Dict], List[Dict]]:
    """Begin a run's journal or go on with it: (checkpoint after the last step or None, candidates done since).

    header: what the run was asked for and where it began. Raises UserError rather than lose an unfinished run or
    go on with other flags.
    """
    found = journal.read(files.journal)
    if found and not resume:
        raise UserError(f"{files.journal}: an unfinished run; add --resume to go on, or remove it to start over")
    if not found:
        files.remove_unfinished()
        journal.begin(files.journal, header)
        return None, []
    before, records = found
    for key in sorted(set(before) | set(header)):
        if before.get(key) != header.get(key):
            raise UserError(f"{files.journal}: began with {key} {before.get(key)!r}, now {header.get(key)!r}; resume "
                            "it as it began, or remove it to start over")
    if not all(_is_record(r) for r in records):
        raise UserError(f"{files.journal}: a line in it is no record of a pruning run; remove the file to start over")
    content = checkpoint.load(files.current) if files.current.exists() else None
    if content and not {"prune_history", "table_costs_history"} <= set(content):
        raise UserError(f"{files.current}: no checkpoint of an unfinished pruning run; remove it and {files.journal} to "
                        "start over")
    steps = len(content["prune_history"]) if content else 0
    done = [r for r in records if r["event"] == "candidate" and r["step"] == steps + 1]
    kept = [r for r in records if r["event"] != "end" and r["step"] <= steps] + done
    if kept != records:  # a step, or the end, that was written down but did not come to pass
        write_whole(files.journal, "".join(journal.line(r) for r in [before] + kept))
    return content, done


_KEYS = {"candidate": {"step", "group", "width", "proposed_width", "gain_s", "error_pct", "growth_pct"},
         "step": {"step"}, "end": set()}


def _is_record(record: Any) -> bool:
    return isinstance(record, dict) and _KEYS.get(str(record.get("event")), {None}) <= set(record)
