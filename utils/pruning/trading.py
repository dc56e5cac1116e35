"""The judge of --method=trade: it trains networks from scratch, except those that an interrupted run has trained."""

import time
from collections.abc import Sequence

from model.network import Network, Widths
from utils.common.journal import Journal
from utils.learning.settings import Recipe
from utils.pruning import history
from utils.pruning.crew import Crew
from utils.pruning.history import Learned
from utils.pruning.scratch import Lesson
from utils.search import trade
from utils.search.costs import Cost


def judge_of(network: Network, recipe: Recipe, epochs: int, cost: Cost, crew: Crew, log: Journal,
             known: Learned) -> trade.Judge:
    """A judge that writes every loss into the journal at once. known: losses by widths; it grows."""

    def judge(networks: Sequence[Widths]) -> list[float]:
        waiting = [w for w in networks if history.key_of(w) not in known]
        began, done = time.monotonic(), 0
        for number, loss in crew.taught([Lesson(network, w, recipe, epochs) for w in waiting]):
            widths, done = waiting[number], done + 1
            log.append(history.judged(network, widths, cost(widths), loss))
            known[history.key_of(widths)] = loss
            left = (time.monotonic() - began) / done * (len(waiting) - done)
            print(f" network {done} of {len(waiting)}: {cost.unit.words(cost(widths))}, "
                  f"{network.parameter_count(widths):,} parameters; training loss {loss:.4f} after {epochs} epochs; "
                  f"about {left / 60:.1f} min left in this round", flush=True)
        return [trade.figure(known[history.key_of(w)], network.parameter_count(w)) for w in networks]
    return judge
