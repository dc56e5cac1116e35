"""One pruning run: the network after the steps so far, and how it adopts the next one. A run can always resume."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Optional

from model import surgery
from model.network import Widths
from model.torch_net import TorchNet
from utils.common.errors import UserError
from utils.common.journal import Journal, Record
from utils.learning import checkpoint
from utils.pruning import candidates, history
from utils.pruning.crew import Crew
from utils.pruning.evaluation import Evaluation, Judged
from utils.pruning.history import Losses, Trials
from utils.pruning.run_files import RunFiles
from utils.pruning.scores import Scores
from utils.pruning.store import CandidateStore
from utils.search import halving, netadapt
from utils.search.costs import Unit
from utils.search.halving import Rung
from utils.search.netadapt import Candidate, Proposal


@dataclass
class Run:
    """The state of a run. netadapt.search calls ``evaluate``; ``adopt`` takes each step that it yields."""

    files: RunFiles
    log: Journal
    crew: Crew
    rungs: tuple[Rung, ...]
    criterion: str
    unit: Unit  # of costs, for people
    carried: dict[str, Any]  # keys of the checkpoint that pruning does not change: epoch, classes, flags, ...
    model: TorchNet  # after the last step, on its device
    error_history: list[float]  # held-out error, %: of the unpruned network, then after every step
    table_costs_history: list[float]  # predicted seconds, likewise
    prune_history: list[Record] = field(default_factory=list)  # the step records of the journal
    trials: Trials = field(default_factory=dict)  # of the step in hand
    losses: Losses = field(default_factory=dict)  # of --method=trade
    evaluation: Optional[Evaluation] = None  # of the step in hand, once it is asked for
    scores: Optional[Scores] = None  # of the channels now, made when first needed
    store: CandidateStore = field(init=False)

    def __post_init__(self) -> None:
        self.store = CandidateStore(self.files.candidates, self.model.network)

    def go_on(self, content: Optional[dict[str, Any]], done: Sequence[Record]) -> None:
        """Resume from the checkpoint after the last step, if there is one, and the current step's trials ``done``."""
        if content:
            self.model = self.crew.workshop.device.place(checkpoint.build(content, self.files.current))
            self.prune_history, self.error_history = content["prune_history"], content["error_history"]
            self.table_costs_history = content["table_costs_history"]
        self.trials, self.losses = history.trials_in(done), history.losses_in(done)
        self.store.read(len(self.prune_history) + 1)

    def evaluate(self, step: int, proposals: Sequence[Proposal]) -> list[Candidate]:
        """The candidates of the last rung, with their errors: those to choose from."""
        known: dict[Optional[int], Judged] = {}
        if self.criterion != "loss":
            known[None] = self.error_history[-1], float("nan")
        self.evaluation = Evaluation(step, self.model, self.crew.workshop, self.crew.of_step(self.model), self.rungs,
                                     self.criterion, self.unit, self.scores_of_step, self.log, self.store, self.trials,
                                     known)
        return self.evaluation.finalists(proposals)

    def adopt(self, step: netadapt.Step) -> None:
        """Replace the network with the chosen candidate, and record the step."""
        assert self.evaluation is not None, "a step is adopted after it is evaluated"
        piece = self.evaluation.made_whole(step.chosen.proposal)
        model = candidates.rebuilt(self.model, piece, self.crew.workshop.device)
        for record in history.candidates_of(step, self.evaluation.fates, self.trials, self.rungs):
            self.log.append(record)
        self._keep_step(history.adopted(step), model)

    def adopt_at_once(self, method: str, widths: Widths, latency_s: float, fine_tune: int = 0) -> None:
        """Prune to the widths that a method of search/baselines.py chose, as one step; the best channels stay.

        fine_tune: batches of fine-tuning at the end of the step.
        """
        before, workshop, step = self.model.widths, self.crew.workshop, len(self.prune_history) + 1
        keep = {g: surgery.best_channels(self.scores_of_step()[g], w) for g, w in widths.items() if w != before[g]}
        model = workshop.device.place(surgery.slice_channels(self.model, keep))
        workshop.recalibrate(model, step, halving.RECALIBRATION)
        if fine_tune and not workshop.tune(model, fine_tune, step):
            raise netadapt.NoWayOn(f"step {step}: the loss became NaN in the fine-tuning; lower --learning_rate")
        error_pct = workshop.error_pct(model, workshop.held_out)
        self._keep_step(history.adopted_at_once(step, method, before, widths, error_pct, latency_s), model)

    def scores_of_step(self) -> Scores:
        if self.scores is None:
            self.scores = self.crew.workshop.scores(self.model, len(self.prune_history) + 1)
        return self.scores

    def _keep_step(self, record: Record, model: TorchNet) -> None:
        self.log.append(record)
        self.log.sync()
        self.model = model
        self.prune_history.append(record)
        self.error_history.append(record["error_pct"])
        self.table_costs_history.append(record["latency_s"])
        checkpoint.save(self.files.current, self.model, self.crew.workshop.source.normalisation, **self._content())
        self.trials, self.evaluation, self.scores = {}, None, None
        self.store.clear()

    def _content(self) -> dict[str, Any]:
        return {"error_history": self.error_history, "prune_history": self.prune_history,
                "table_costs_history": self.table_costs_history, **self.carried}

    def write_checkpoint(self, test_error_pct: float) -> None:
        """Write the checkpoint of the result."""
        checkpoint.save(self.files.checkpoint, self.model, self.crew.workshop.source.normalisation, **self._content(),
                        test_error=test_error_pct)

    def finish(self, end: Record) -> None:
        """Turn the journal into the history, after every other result is written."""
        self.log.append({"event": "end", **end})
        self.files.write_history()

    @contextmanager
    def tidied(self) -> Iterator[None]:
        """If the method raises NoWayOn: remove the unfinished files if no step was made, else name the checkpoint."""
        try:
            yield
        except netadapt.NoWayOn as error:
            if not self.prune_history:
                self.files.remove_unfinished()
                raise
            raise UserError(f"{error}, with another --save_file. The network so far is kept in "
                            f"{self.files.current}, a checkpoint like any other") from error
