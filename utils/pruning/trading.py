"""The judges of --method=trade: they train networks from scratch, except those that an interrupted run has trained."""

import math
import time
from collections.abc import Sequence

from model.network import Network, Widths
from utils.common.journal import Journal
from utils.learning.settings import Recipe
from utils.pruning import history
from utils.pruning.crew import Crew
from utils.pruning.history import Losses
from utils.pruning.scratch import Lesson
from utils.search import trade
from utils.search.costs import Cost

EPOCHS, BATCHES = 3, 1000  # from scratch, at least, before networks are compared; three epochs of CIFAR-10 have both
GLANCE = 9  # parts of these epochs, of which a glance takes one


def epochs_of(batches: int, most: int) -> int:
    """Epochs from scratch after which networks are compared.

    batches: of an epoch; most: epochs that the base model learned from scratch, 0: not known. An epoch of few images
    teaches little, so there are more of them.
    """
    enough = math.ceil(BATCHES / batches)
    return max(EPOCHS, min(enough, most or enough))


def glance_of(epochs: int) -> tuple[int, float]:
    """(epochs, part of the images) of a first glance: a third of the images once, before three epochs."""
    return (epochs // GLANCE, 1.0) if epochs >= GLANCE else (1, epochs / GLANCE)


def judges_of(network: Network, recipe: Recipe, epochs: int, cost: Cost, crew: Crew, log: Journal,
              known: Losses) -> tuple[trade.Judge, trade.Judge]:
    """The judge after all epochs, and that of a first glance.

    Both write every loss into the journal at once. known: the losses so far; it grows.
    """
    def after(epochs: int, part: float, capacity: float, networks: Sequence[Widths]) -> list[float]:
        keys = [(history.key_of(w), epochs, part) for w in networks]
        waiting = [(key, w) for key, w in zip(keys, networks) if key not in known]
        lessons = [Lesson(network, w, recipe, epochs, part) for _, w in waiting]
        began, done, words = time.monotonic(), 0, _in_words(epochs, part)
        for number, loss in crew.taught(lessons):
            (key, widths), done = waiting[number], done + 1
            log.append(history.judged(network, widths, cost(widths), epochs, part, loss))
            known[key] = loss
            left = (time.monotonic() - began) / done * (len(waiting) - done)
            print(f" network {done} of {len(waiting)}: {cost.unit.words(cost(widths))}, "
                  f"{network.parameter_count(widths):,} parameters; training loss {loss:.4f} after {words}; "
                  f"about {left / 60:.1f} min left for these", flush=True)
        return [trade.figure(known[key], network.parameter_count(w), capacity) for key, w in zip(keys, networks)]

    def whole(networks: Sequence[Widths]) -> list[float]:
        return after(epochs, 1.0, trade.CAPACITY, networks)

    def glance(networks: Sequence[Widths]) -> list[float]:
        return after(*glance_of(epochs), trade.FIRST_CAPACITY, networks)

    return whole, glance


def _in_words(epochs: int, part: float) -> str:
    if part < 1:
        return f"one epoch on {part:.0%} of the images"
    return "1 epoch" if epochs == 1 else f"{epochs} epochs"
