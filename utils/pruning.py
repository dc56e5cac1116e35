"""One pruning run on the disk and in memory: candidates tried, steps adopted, everything resumable.

While a run is unfinished it lives in these files, and ends by turning them into its results:

    history/NAME.unfinished.jsonl       the journal: the start, every trial (a candidate judged at a rung), every step
    checkpoints/NAME.unfinished.t7      the network after the last step, a checkpoint like any other
    checkpoints/NAME.candidates/        where the candidates stand that are still in the running for the step in hand
"""

import io
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

import torch

from model.network import Widths
from model.torch_net import TorchNet
from utils import candidates, checkpoint, cli, halving, journal, netadapt, surgery
from utils.candidates import Piece, State
from utils.errors import UserError
from utils.files import write_whole
from utils.halving import Fate, Rung
from utils.netadapt import Candidate, Key, Proposal
from utils.parcels import Crew, Make
from utils.scores import Scores


@dataclass(frozen=True)
class Files:
    """Where a run keeps what: its results, and its unfinished state."""

    checkpoint: Path
    channels: Path
    history: Path
    picture: Path
    journal: Path
    current: Path
    candidates: Path  # a folder

    def remove_unfinished(self) -> None:
        for path in (self.journal, self.current):
            path.unlink(missing_ok=True)
        self.remove_candidates()

    def remove_candidates(self) -> None:
        if self.candidates.is_dir():
            for path in self.candidates.iterdir():
                path.unlink()
            self.candidates.rmdir()


def files_of(name: str) -> Files:
    checkpoints, history = Path("checkpoints"), Path("history")
    return Files(checkpoint=checkpoints / f"{name}.t7", channels=Path("nbr_channels") / f"{name}.pickle",
                 history=history / f"{name}.jsonl", picture=history / f"{name}.png",
                 journal=history / f"{name}.unfinished.jsonl", current=checkpoints / f"{name}.unfinished.t7",
                 candidates=checkpoints / f"{name}.candidates")


@dataclass
class Run:
    """The state of a run. ``evaluate`` is what netadapt.search asks; ``adopt`` takes each step it yields."""

    files: Files
    log: journal.Journal
    crew: Crew
    rungs: Tuple[Rung, ...]
    criterion: str
    carried: Dict[str, Any]  # keys of the checkpoint that pruning does not change: epoch, classes, flags, ...
    model: TorchNet  # after the last step, on its device
    error_history: List[float]  # held-out error, %: of the unpruned network, then after every step
    table_costs_history: List[float]  # predicted seconds, likewise
    prune_history: List[Dict[str, Any]] = field(default_factory=list)  # the step records of the journal
    # of the step in hand, by candidate:
    trials: Dict[Tuple[Key, str], Tuple[float, float]] = field(default_factory=dict)  # (error in %, loss), by (candidate, rung)
    states: Dict[Key, State] = field(default_factory=dict)  # how far candidates are made
    fates: Dict[Key, Fate] = field(default_factory=dict)
    scores: Optional[Scores] = None  # of the channels, made when first needed

    def evaluate(self, step: int, proposals: Sequence[Proposal]) -> List[Candidate]:
        """The candidates of the last rung, with their errors: those to choose from."""
        known = {} if self.criterion == "loss" else {None: (self.error_history[-1], float("nan"))}
        judge = _Judge(self, step, self.crew.of_step(self.model), known)
        self.fates = halving.climb(proposals, self.rungs, judge, self.rank)
        return [fate.candidate for fate in self.fates.values() if fate.rung == self.rungs[-1]]

    def adopt(self, step: netadapt.Step) -> None:
        """Make the chosen candidate the network, and keep the step."""
        chosen, number = step.chosen.proposal, step.state.step
        piece = self.piece(chosen, self.rungs[-1])
        if not piece.state or piece.state["batches"] != self.rungs[-1].batches:  # its file was lost between two runs
            (made,) = self.crew.of_step(self.model)(number, self.rungs[-1], [replace(piece, state=None)])
            piece = replace(piece, state=made.state)
        model = candidates.rebuilt(self.model, piece, self.crew.workshop.device)
        record = {"event": "step", "step": number, **asdict(chosen), "error_pct": step.state.error_pct,
                  "latency_s": step.latency_s, "target_gain_s": step.target_gain_s}
        for candidate_record in self._candidate_records(step):
            self.log.append(candidate_record)
        self._keep_step(record, model)

    def adopt_at_once(self, method: str, widths: Widths, latency_s: float) -> None:
        """Make the network what one of utils/baselines.py chose, with the channels of the highest scores, as one step."""
        narrowed = {g: w for g, w in widths.items() if w != self.model.widths[g]}
        keep = {g: surgery.best_channels(self.scores_of_step()[g], w) for g, w in narrowed.items()}
        model = self.crew.workshop.device.place(surgery.slice_channels(self.model, keep))
        self.crew.workshop.recalibrate(model, 1, halving.RECALIBRATION)
        error = self.crew.workshop.error_pct(model, self.crew.workshop.held_out)
        self._keep_step({"event": "step", "step": 1, "method": method, "error_pct": error, "latency_s": latency_s,
                         "widths": {g: [self.model.widths[g], w] for g, w in narrowed.items()}}, model)

    def scores_of_step(self) -> Scores:
        if self.scores is None:
            self.scores = self.crew.workshop.scores(self.model, len(self.prune_history) + 1)
        return self.scores

    def _keep_step(self, record: Dict[str, Any], model: TorchNet) -> None:
        self.log.append(record)
        self.log.sync()
        self.model = model
        self.prune_history.append(record)
        self.error_history.append(record["error_pct"])
        self.table_costs_history.append(record["latency_s"])
        self.save(self.files.current, self.model)
        self.trials, self.states, self.fates, self.scores = {}, {}, {}, None
        self.files.remove_candidates()

    def _candidate_records(self, step: netadapt.Step) -> Iterator[Dict[str, Any]]:
        """For every candidate of the step how far it went and why no further; then those that were not drawn."""
        for key, fate in self.fates.items():
            found = fate.candidate
            errors = {rung.name: _number(self.trials[key, rung.name][0]) for rung in self.rungs
                      if (key, rung.name) in self.trials}
            yield {"event": "candidate", "step": step.state.step, **asdict(found.proposal), "rung": fate.rung.name,
                   "batches": fate.rung.batches, "error_pct": _number(found.error_pct),
                   "growth_pct": _number(found.growth_pct), "growth_pct_per_s": _number(found.ratio), "errors_pct": errors,
                   "loss": _number(found.loss), "loss_growth": _number(found.loss_growth),
                   "stopped": "chosen" if found.proposal == step.chosen.proposal else fate.stopped}
        for proposal in step.left_out:
            yield {"event": "candidate", "step": step.state.step, **asdict(proposal), "rung": None, "batches": 0,
                   "error_pct": None, "growth_pct": None, "growth_pct_per_s": None, "errors_pct": {}, "loss": None,
                   "loss_growth": None,
                   "stopped": "not drawn"}

    def rank(self, found: Iterable[Candidate]) -> List[Candidate]:
        return netadapt.rank(found, self.criterion)

    def piece(self, proposal: Proposal, rung: Rung) -> Piece:
        """What is to be brought to this rung; a state that is not one on the way there is left aside."""
        keep = surgery.best_channels(self.scores_of_step()[proposal.group], proposal.proposed_width)
        shapes = self.model.network.weight_shapes({**self.model.widths, proposal.group: proposal.proposed_width})
        state = self.states.get(proposal.key)
        return Piece(proposal.group, self._number_of(proposal.group), keep.cpu(),
                     state if _fits(state, shapes) and state["batches"] <= rung.batches else None)

    def _number_of(self, group: str) -> int:
        return 1 + [g.name for g in self.model.network.groups].index(group)

    def keep_state(self, step: int, key: Key, state: State) -> None:
        self.states[key] = state
        buffer = io.BytesIO()
        torch.save({"step": step, "group": key[0], "width": key[1], "state": state}, buffer)
        self.files.candidates.mkdir(exist_ok=True)
        write_whole(self._state_path(key), buffer.getvalue())

    def drop_states(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self.states.pop(key, None)
            self._state_path(key).unlink(missing_ok=True)

    def _state_path(self, key: Key) -> Path:
        group, width = key
        return self.files.candidates / f"{self._number_of(group)}-{width}.t7"

    def take_up_trials(self, done: List[Dict[str, Any]]) -> None:
        """Go on inside a step: its trials that are ``done``, and the candidates on the disk."""
        self.trials = {((r["group"], r["proposed_width"]), r["rung"]): tuple(float("nan") if r.get(k) is None else r[k]
                                                      for k in ("error_pct", "loss")) for r in done}
        for path in sorted(self.files.candidates.glob("*.t7")):
            try:
                content = torch.load(path, map_location="cpu", weights_only=True)
                key = content["group"], content["width"]
                if content["step"] == len(self.prune_history) + 1 and path == self._state_path(key):
                    self.states[key] = content["state"]
            except Exception:  # torch raises many kinds for a broken file; the candidate can be made again
                continue

    def save(self, path: Path, model: TorchNet, **more: Any) -> None:
        checkpoint.save(path, model, self.crew.workshop.source.normalisation, error_history=self.error_history,
                        prune_history=self.prune_history, table_costs_history=self.table_costs_history,
                        **self.carried, **more)

    def finish(self, end: Dict[str, Any]) -> None:
        """Turn the journal into the history, after every other result is written."""
        self.log.append({"event": "end", **end})
        header, records = journal.read(self.files.journal)
        lines = [journal.line(r) for r in [header] + records if r["event"] != "trial"]
        write_whole(self.files.history, "".join(lines))
        self.files.remove_unfinished()

    @contextmanager
    def tidied(self) -> Iterator[None]:
        """Where the method finds no way on, leave nothing that was not worth a step, and say what there is."""
        try:
            yield
        except netadapt.NoWayOn as error:
            if not self.prune_history:
                self.files.remove_unfinished()
                raise
            raise UserError(f"{error}, with another --save_file. What was reached is {self.files.current}, a checkpoint "
                            "like any other") from error


@dataclass(frozen=True)
class _Judge:
    """Brings candidates of one step to a rung, unless they were there before an interruption, and keeps what comes of it."""

    run: Run
    step: int
    make: Make
    parents: Dict[Optional[int], Tuple[float, float]]  # the parent's (error in %, loss), by the number of images

    def __call__(self, rung: Rung, going: Sequence[Proposal]) -> List[Candidate]:
        run, before = self.run, self._parent(rung)
        run.drop_states(set(run.states) - {p.key for p in going})
        waiting = {p.key: p for p in going if (p.key, rung.name) not in run.trials}
        if rung.images is not None or len(run.rungs) > 1:
            print(f" step {self.step}, {rung.name}: {len(going)} candidates", flush=True)
        found = [_candidate(p, run.trials[p.key, rung.name], before) for p in going if p.key not in waiting]
        pieces = [run.piece(p, rung) for p in waiting.values()]
        if not rung.batches:  # all are scored together, sharing layers: one that was scored before a fault, too
            pieces = [replace(piece, state=None) for piece in pieces]
        for made in self.make(self.step, rung, pieces) if pieces else ():
            candidate = _candidate(waiting[made.key], (made.error_pct, made.loss), before)
            self._keep(rung, candidate, made.state, found)
            found.append(candidate)
        return sorted(found, key=lambda c: [p.key for p in going].index(c.proposal.key))

    def _parent(self, rung: Rung) -> Tuple[float, float]:
        """(error in %, loss) that candidates are held against."""
        run, workshop = self.run, self.run.crew.workshop
        if rung.images not in self.parents:
            self.parents[rung.images] = workshop.judge(run.model, workshop.judged(self.step, rung.images))
        return self.parents[rung.images]

    def _keep(self, rung: Rung, candidate: Candidate, state: State, others: Sequence[Candidate]) -> None:
        """Write down the trial, and where the candidate stands if it can go on; of the last rung only the best one."""
        run, proposal, error = self.run, candidate.proposal, candidate.error_pct
        lost = [proposal.key] if error != error else []
        if rung == run.rungs[-1]:
            best = run.rank([*others, candidate])[:1]
            lost = [c.proposal.key for c in (*others, candidate) if c not in best]
        if proposal.key not in lost:
            run.keep_state(self.step, proposal.key, state)
        run.drop_states(lost)
        run.trials[proposal.key, rung.name] = error, candidate.loss
        run.log.append({"event": "trial", "step": self.step, "rung": rung.name, **asdict(proposal),
                        "error_pct": _number(error), "loss": _number(candidate.loss)})
        print(f"  {proposal.group:<12}{proposal.width:>4} -> {proposal.proposed_width:<4} gains "
              f"{proposal.gain_s * 1e3:8.4f} ms   error " + (f"{error:6.2f}%" if error == error else
                                                              "NaN, out of this step"), flush=True)


def _candidate(proposal: Proposal, judged: Tuple[float, float], before: Tuple[float, float]) -> Candidate:
    (error_pct, loss), (before_pct, before_loss) = judged, before
    return Candidate(proposal, error_pct, error_pct - before_pct, loss, loss - before_loss)


def _fits(state: Any, shapes: Dict[str, Tuple[int, ...]]) -> bool:
    """Whether this is the state of a candidate with weights of these shapes: it may come from a file."""
    if not (isinstance(state, dict) and isinstance(state.get("batches"), int) and isinstance(state.get("model"), dict)):
        return False
    found = {k: v for k, v in state["model"].items() if not str(k).endswith("num_batches_tracked")}
    statistics = {k for k in shapes if "running_" in k}
    return (set(found) in (set(shapes), *([statistics] if state["batches"] == 0 else []))
            and all(isinstance(v, torch.Tensor) and shapes[k] == tuple(v.shape) for k, v in found.items()))


def _number(value: float) -> Optional[float]:
    return value if value == value else None


def take_up(files: Files, header: Dict[str, Any], *, resume: bool) -> Tuple[Optional[Dict], List[Dict]]:
    """Begin a run's journal or go on with it: (checkpoint after the last step or None, trials done since).

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
        old, new = before.get(key), header.get(key)
        if old != new:
            flags = isinstance(old, dict) and isinstance(new, dict) and cli.changed_flags(old, new, ())
            raise UserError(f"{files.journal}: {flags or f'began with {key} {old!r}, now {new!r}'}; resume it as it began, "
                            "or remove it to start over")
    if not all(_is_record(r) for r in records):
        raise UserError(f"{files.journal}: a line in it is no record of a pruning run; remove the file to start over")
    content = checkpoint.load(files.current) if files.current.exists() else None
    if content and not {"prune_history", "table_costs_history"} <= set(content):
        raise UserError(f"{files.current}: no checkpoint of an unfinished pruning run; remove it and {files.journal} to "
                        "start over")
    steps = len(content["prune_history"]) if content else 0
    done = [r for r in records if r["event"] == "trial" and r["step"] == steps + 1]
    kept = [r for r in records if r["event"] != "end" and r["step"] <= steps] + done
    if kept != records:  # a step, or the end, that was written down but did not come to pass
        write_whole(files.journal, "".join(journal.line(r) for r in [before] + kept))
    return content, done


def _is_record(record: Any) -> bool:
    """Whether this is a line that a run writes after its first."""
    if not isinstance(record, dict) or record.get("event") not in ("trial", "candidate", "step", "end"):
        return False
    number = isinstance(record.get("step"), int) or record["event"] == "end"
    return number and (record["event"] != "trial" or (
        isinstance(record.get("group"), str) and isinstance(record.get("proposed_width"), int)
        and isinstance(record.get("rung"), str)
        and all(record.get(k) is None or isinstance(record[k], (int, float)) for k in ("error_pct", "loss"))))
