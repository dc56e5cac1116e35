"""Settings of a pruning run, as plain values: the script makes them from its flags before it loads torch."""

from dataclasses import dataclass, replace
from typing import Optional

from model.network import Network
from utils.learning.settings import Compute, Data, Recipe
from utils.search.costs import Cost
from utils.search.netadapt import Settings
from utils.search.space import Space

SCORES = ("l2", "fisher", "taylor", "bn", "random")  # what a channel's score may be; scores.py has a function for each


@dataclass(frozen=True)
class Pruning:
    """How a network is pruned."""

    method: str  # "netadapt", "trade", or one of search/baselines.py
    pruning_method: str  # one of SCORES
    search: str  # of netadapt: one of halving.SEARCHES
    settings: Settings
    short_term_fine_tune: int  # batches for a candidate
    long_term_fine_tune: int  # batches at the end
    recipe: Recipe  # of both
    data: Data
    compute: Compute
    keep: tuple[str, ...]  # patterns of layers that are left alone
    multiple_of: int  # of which every narrower width is a multiple
    jobs: int  # processes that make candidates
    backend: str  # "local" or "ray"
    floor: float = 0.0  # part of its width that a residual stream keeps, of the knapsack and its kind
    knapsack_steps: int = 1  # of the knapsack; with several, fine-tuning follows each
    scratch_epochs: Optional[int] = None  # of trade: after which a network is judged; None: what suits the images
    scratch_rate: float = 0.1  # of trade: learning rate of the first of them

    @property
    def scratch_recipe(self) -> Recipe:
        """Of training from scratch."""
        return replace(self.recipe, learning_rate=self.scratch_rate)

    def space_of(self, network: Network) -> Space:
        return Space(network, self.keep, self.multiple_of, self.floor)


@dataclass(frozen=True)
class Prices:
    """The costs of networks, and where they come from."""

    cost: Cost  # of the base network at widths: seconds by a table, or a count
    table: str  # its file's name, or one of costs.COUNTS
    sha256: str  # of its entries; "" of a count
    about: str  # the table in words
