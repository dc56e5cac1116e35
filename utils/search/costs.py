"""What a network costs at some widths: a latency that a table predicts, or a count that needs no device."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, Callable, Union

import numpy as np

from model.network import Network, Widths
from model.operators import Node, filter_elements, trainable_elements
from utils.search.pricing import BeyondCache, LayerSum


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
    """``cost(widths)`` of one network; of: a LayerSum or a BeyondCache, which are quick along a group,
    or any function."""

    of: Callable[[Widths], float]
    unit: Unit = LATENCY

    def __call__(self, widths: Widths) -> float:
        return self.of(widths)


Latency = Union[Cost, Callable[[Widths], float]]  # plain callables give seconds


def unit_of(latency: Latency) -> Unit:
    return latency.unit if isinstance(latency, Cost) else LATENCY


def costs_along(latency: Latency, widths: Widths, group: str, choices: Union[Sequence[int], np.ndarray]) -> np.ndarray:
    """latency({**widths, group: choice}) of every choice."""
    of = latency.of if isinstance(latency, Cost) else latency
    if isinstance(of, (LayerSum, BeyondCache)):
        return of.along(widths, group, np.asarray(choices, int))
    return np.array([of({**widths, group: int(choice)}) for choice in choices])


# --- counts ----------------------------------------------------------------------------------------------------

def multiply_adds(network: Network) -> LayerSum:
    """``network.multiply_adds``, layer by layer."""
    return LayerSum(network, {n.name: partial(_layer_multiply_adds, n, prod(network.tensors[n.name].sides))
                              for n in network.nodes})


def _layer_multiply_adds(node: Node, pixels: int, cin: Any, cout: Any) -> Any:
    return filter_elements(node, cin, cout) * pixels


def parameters(network: Network) -> LayerSum:
    """``network.parameter_count``, layer by layer."""
    return LayerSum(network, {n.name: partial(trainable_elements, n) for n in network.nodes})


# --perf_table=NAME: counts in place of a table
COUNTS: dict[str, Callable[[Network], Cost]] = {
    "macs": lambda network: Cost(multiply_adds(network), Unit("multiply-accumulate operations", "M MACs", 1e-6)),
    "params": lambda network: Cost(parameters(network), Unit("trainable parameters", "k parameters", 1e-3)),
}
