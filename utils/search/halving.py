"""Successive halving over the candidates of a step (arXiv 1502.07943): all judged cheaply, the best ones thoroughly.

Candidates are judged at every rung of a ladder. Each rung continues the fine-tuning of the rung before. This module
sees errors, and nothing of torch, files or data.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Callable, Optional

from utils.search.netadapt import Candidate, Key, Proposal

RECALIBRATION = 10  # batches on which batch-norm statistics are measured anew
JUDGED = 2000  # held-out images that all rungs but the last judge on
SCORED = 1000  # of these, that the first rung of the quick search judges on
SHORT = 0.2  # part of the short-term fine-tuning before the middle rung


@dataclass(frozen=True)
class Rung:
    name: str
    batches: int  # of fine-tuning, in total, before a candidate is judged
    images: Optional[int] = None  # held-out images to judge on; None: all
    recalibration: int = 0  # batches to measure batch-norm statistics anew on, before any fine-tuning
    own: Optional[int] = None  # held-out images to measure them on instead
    frozen: bool = False  # the layers before the first pruned one do not learn
    share: float = 0.0  # part of the step's candidates that goes on to the next rung
    least: int = 1  # number that goes on, at least

    @property
    def measures_what_it_judges(self) -> bool:
        """Whether the batch norms use the statistics of the very images that are judged."""
        return self.own is not None and self.own == self.images

    def as_record(self) -> dict[str, Any]:
        return {k: v for k, v in asdict(self).items() if NEWER.get(k, ...) != v}

    def going_on(self, candidates: int) -> int:
        """How many of a step's candidates leave this rung for the next one."""
        return min(max(round(self.share * candidates), self.least), candidates)


NEWER = {"own": None, "frozen": False}  # left out of a rung's record at these values: older runs do not have them
SEARCHES = ("quick", "halving", "full")


def ladder(search: str, batches: int) -> tuple[Rung, ...]:
    """The rungs of a search, one of SEARCHES, where ``batches`` is the whole short-term fine-tuning.

    ``full`` is NetAdapt's own way (arXiv 1804.03230, section 3.3): every candidate gets the whole of it.
    """
    if search == "full":
        return (Rung("full", batches),)
    score = Rung("score", 0, JUDGED, RECALIBRATION, share=0.15, least=2)
    tuned = Rung("full", batches, None, RECALIBRATION)
    if search == "quick":
        score = replace(score, images=SCORED, recalibration=0, own=SCORED)
        tuned = replace(tuned, recalibration=0, own=SCORED, frozen=True) if batches else tuned
    short = round(SHORT * batches)
    middle = (replace(tuned, name="short", batches=short, images=JUDGED),) if short else ()
    return (score, *middle, tuned)


@dataclass(frozen=True)
class Fate:
    """How far a candidate went, and why no further."""

    rung: Rung
    candidate: Candidate
    stopped: str


Judge = Callable[[Rung, Sequence[Proposal]], list[Candidate]]
Rank = Callable[[list[Candidate]], list[Candidate]]  # best first, without those whose error is no number


def climb(proposals: Sequence[Proposal], rungs: Sequence[Rung], judge: Judge, rank: Rank) -> dict[Key, Fate]:
    """Judge a step's proposals rung by rung; returns {(group, proposed width): its fate} for all of them.

    The step chooses among the candidates of the last rung. If the loss of all that went on becomes NaN, the next best
    ones go on.
    """
    fates: dict[Key, Fate] = {}

    def from_rung(number: int, going: Sequence[Proposal]) -> bool:
        rung, count = rungs[number], rungs[number].going_on(len(proposals))
        if number + 1 < len(rungs) and len(going) <= count:  # nothing to decide
            return from_rung(number + 1, going)
        tried = judge(rung, going)
        ranked = rank(tried)
        fates.update({c.proposal.key: Fate(rung, c, "its loss became NaN") for c in tried})
        fates.update({c.proposal.key: Fate(rung, c, f"{place} of {len(tried)} at {rung.name}")
                      for place, c in enumerate(ranked, 1)})
        if number + 1 == len(rungs):
            return bool(ranked)
        return any(from_rung(number + 1, [c.proposal for c in ranked[start:start + count]])
                   for start in range(0, len(ranked), count))

    from_rung(0, proposals)
    return fates
