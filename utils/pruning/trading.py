"""The judges of --method=trade: they train networks from scratch, except those that an interrupted run has trained."""

import math
import time
from collections.abc import Sequence
from typing import Optional

from model.network import Network, Widths
from utils.common.journal import Journal
from utils.learning.settings import Recipe
from utils.pruning import history
from utils.pruning.crew import Crew
from utils.pruning.history import Losses
from utils.pruning.scratch import Lesson, Progress
from utils.search import trade
from utils.search.costs import Cost

EPOCHS, BATCHES = 3, 1000  # from scratch, at least, before networks are compared; three epochs of CIFAR-10 have both
GLANCE = 3  # parts of these epochs, of which the first glance takes one


def epochs_of(batches: int, most: int) -> int:
    """Epochs from scratch after which networks are compared.

    batches: of an epoch; most: epochs that the base model learned. An epoch of few images teaches little, so there are
    more of them.
    """
    return max(EPOCHS, min(math.ceil(BATCHES / batches), most))


def judges_of(network: Network, recipe: Recipe, epochs: int, cost: Cost, crew: Crew, log: Journal,
              known: Losses) -> tuple[trade.Judge, Optional[trade.Judge]]:
    """The judge after all epochs, and the one after a third of them; None where there is but one epoch.

    Both write every loss into the journal at once. known: the losses so far; it grows.
    """
    going_on: dict[str, Progress] = {}  # of networks in the middle of their training, by key_of their widths

    def after(until: int, capacity: float, networks: Sequence[Widths]) -> list[float]:
        keys = [history.key_of(w) for w in networks]
        waiting = [(key, w) for key, w in zip(keys, networks) if (key, until) not in known]
        lessons = [Lesson(network, w, recipe, epochs, until, going_on.get(key)) for key, w in waiting]
        began, done, words = time.monotonic(), 0, "1 epoch" if until == 1 else f"{until} epochs"
        for number, learned in crew.taught(lessons):
            (key, widths), done = waiting[number], done + 1
            log.append(history.judged(network, widths, cost(widths), until, learned.loss))
            known[key, until] = learned.loss
            if learned.progress:
                going_on[key] = learned.progress
            left = (time.monotonic() - began) / done * (len(waiting) - done)
            print(f" network {done} of {len(waiting)}: {cost.unit.words(cost(widths))}, "
                  f"{network.parameter_count(widths):,} parameters; training loss {learned.loss:.4f} after {words}; "
                  f"about {left / 60:.1f} min left for these", flush=True)
        return [trade.figure(known[key, until], network.parameter_count(w), capacity)
                for key, w in zip(keys, networks)]

    def whole(networks: Sequence[Widths]) -> list[float]:
        return after(epochs, trade.CAPACITY, networks)

    def glance(networks: Sequence[Widths]) -> list[float]:
        going_on.clear()  # of the round before
        return after(max(epochs // GLANCE, 1), trade.FIRST_CAPACITY, networks)

    return whole, glance if epochs > 1 else None
