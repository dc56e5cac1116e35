"""What a network costs at some widths: a latency that a table predicts, or a count that needs no device."""

from dataclasses import dataclass
from typing import Callable, Union

from model.network import Network, Widths


@dataclass(frozen=True)
class Unit:
    """What a cost counts, and how people read it."""

    quantity: str
    name: str  # of the unit shown
    scale: float  # by which a cost is multiplied to be shown in it

    def words(self, cost: float) -> str:
        return f"{cost * self.scale:.4f} {self.name}"

    def short(self, cost: float) -> str:
        return f"{cost * self.scale:.4g} {self.name}"


LATENCY = Unit("predicted latency", "ms", 1e3)  # of seconds


@dataclass(frozen=True)
class Cost:
    """``cost(widths)`` of one network."""

    of: Callable[[Widths], float]
    unit: Unit = LATENCY

    def __call__(self, widths: Widths) -> float:
        return self.of(widths)


Latency = Union[Cost, Callable[[Widths], float]]  # plain callables give seconds


def unit_of(latency: Latency) -> Unit:
    return latency.unit if isinstance(latency, Cost) else LATENCY


# --perf_table=NAME: counts in place of a table
COUNTS: dict[str, Callable[[Network], Cost]] = {
    "macs": lambda network: Cost(network.multiply_adds, Unit("multiply-accumulate operations", "M MACs", 1e-6)),
    "params": lambda network: Cost(network.parameter_count, Unit("trainable parameters", "k parameters", 1e-3)),
}
