"""Bring one step's candidates from rung to rung and judge them, except where an interrupted run has judged them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Callable, Optional

from model import surgery
from model.torch_net import TorchNet
from utils.common.journal import Journal
from utils.pruning import history
from utils.pruning.candidates import Piece, Progress, Workshop, judge_parent, number_of
from utils.pruning.crew import Make
from utils.pruning.history import Trials
from utils.pruning.scores import Scores
from utils.pruning.store import CandidateStore
from utils.search import halving, netadapt
from utils.search.costs import Unit
from utils.search.halving import Fate, Rung
from utils.search.netadapt import Candidate, Key, Proposal

Judged = tuple[float, float]  # error in %, loss


@dataclass
class Evaluation:
    """The evaluation of the current step. Every result goes into the journal and the store at once."""

    step: int
    parent: TorchNet  # on the device
    workshop: Workshop
    make: Make
    rungs: Sequence[Rung]
    criterion: str
    unit: Unit  # of gains, for people
    scores: Callable[[], Scores]  # of the parent's channels
    log: Journal
    store: CandidateStore
    trials: Trials  # already done
    parents: dict[Optional[int], Judged]  # the parent's, by the number of images (None: all)
    fates: dict[Key, Fate] = field(default_factory=dict)

    def finalists(self, proposals: Sequence[Proposal]) -> list[Candidate]:
        """The candidates of the last rung, with their errors: those to choose from."""
        self.fates = halving.climb(proposals, self.rungs, self._judge, self._rank)
        return [fate.candidate for fate in self.fates.values() if fate.rung == self.rungs[-1]]

    def made_whole(self, proposal: Proposal) -> Piece:
        """The candidate after the last rung; made anew if its file was lost between two runs."""
        piece = self._piece(proposal, self.rungs[-1])
        if piece.progress and piece.progress["batches"] == self.rungs[-1].batches:
            return piece
        (made,) = self.make(self.step, self.rungs[-1], [replace(piece, progress=None)])
        return replace(piece, progress=made.progress)

    def _judge(self, rung: Rung, going: Sequence[Proposal]) -> list[Candidate]:
        """halving.Judge"""
        before = self._parent(rung)
        self.store.drop(self.store.keys - {p.key for p in going})
        waiting = {p.key: p for p in going if (p.key, rung.name) not in self.trials}
        if rung.images is not None or len(self.rungs) > 1:
            print(f" step {self.step}, {rung.name}: {len(going)} candidates", flush=True)
        found = [_candidate(p, self.trials[p.key, rung.name], before) for p in going if p.key not in waiting]
        pieces = [self._piece(p, rung) for p in waiting.values()]
        if not rung.batches:  # all are scored together on shared layers, so none continues from before
            pieces = [replace(piece, progress=None) for piece in pieces]
        for made in self.make(self.step, rung, pieces) if pieces else ():
            candidate = _candidate(waiting[made.key], (made.error_pct, made.loss), before)
            self._keep(rung, candidate, made.progress, found)
            found.append(candidate)
        order = [p.key for p in going]
        return sorted(found, key=lambda c: order.index(c.proposal.key))

    def _rank(self, found: Iterable[Candidate]) -> list[Candidate]:
        return netadapt.rank(found, self.criterion)

    def _parent(self, rung: Rung) -> Judged:
        """The parent's error and loss on the images of the rung, with which candidates are compared."""
        if rung.images not in self.parents:
            self.parents[rung.images] = judge_parent(self.workshop, self.parent, self.step, rung)
        return self.parents[rung.images]

    def _piece(self, proposal: Proposal, rung: Rung) -> Piece:
        """The candidate to bring to this rung, with its stored progress."""
        network, group = self.parent.network, proposal.group
        keep = surgery.best_channels(self.scores()[group], proposal.proposed_width)
        shapes = network.weight_shapes({**self.parent.widths, group: proposal.proposed_width})
        return Piece(group, number_of(network, group), keep.cpu(),
                     self.store.progress(proposal.key, shapes, rung.batches))

    def _keep(self, rung: Rung, candidate: Candidate, progress: Progress, others: Sequence[Candidate]) -> None:
        """Record the trial, and store the candidate's progress if it can go on; of the last rung, only the best's."""
        proposal, error = candidate.proposal, candidate.error_pct
        lost = [proposal.key] if error != error else []
        if rung == self.rungs[-1]:
            best = self._rank([*others, candidate])[:1]
            lost = [c.proposal.key for c in (*others, candidate) if c not in best]
        if proposal.key not in lost:
            self.store.keep(self.step, proposal.key, progress)
        self.store.drop(lost)
        self.trials[proposal.key, rung.name] = error, candidate.loss
        self.log.append(history.trial(self.step, rung, candidate))
        print(f"  {proposal.group:<12}{proposal.width:>4} -> {proposal.proposed_width:<4} gains "
              f"{self.unit.words(proposal.gain_s):>11}   error "
              + (f"{error:6.2f}%" if error == error else "NaN, out of this step"), flush=True)


def _candidate(proposal: Proposal, judged: Judged, before: Judged) -> Candidate:
    (error_pct, loss), (before_pct, before_loss) = judged, before
    return Candidate(proposal, error_pct, error_pct - before_pct, loss, loss - before_loss)
