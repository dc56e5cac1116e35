"""What a network costs, as a sum over its layers, quickly: what a change does not touch is not priced anew.

A sum of floats depends on its order, and one bit can decide between two widths. So every sum here has the terms of the
plain sum over ``network.layers(widths)``, in that order, and equals it to the bit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Callable, NamedTuple, Union

import numpy as np

from model.network import Network, Widths

Price = Callable[[Any, Any], Any]  # of a layer from cin to cout channels: numbers, or arrays of them


class Living(NamedTuple):
    """The layers that live and have a price, in execution order."""

    names: list[str]
    reads: np.ndarray  # numbers of the tensors of cin channels
    writes: np.ndarray  # and of cout channels


@dataclass(frozen=True)
class LayerSum:
    """``cost(widths)`` of a network: the sum of the prices of its live layers.

    prices: {node: its price}; a layer without one is free.
    """

    network: Network
    prices: Mapping[str, Price]

    def __call__(self, widths: Widths) -> float:
        return _running(self._terms(self._living(widths), self._units @ self._checked(widths)))[-1].item()

    def along(self, widths: Widths, group: str, choices: np.ndarray) -> np.ndarray:
        """The costs with ``group`` at each of these widths, beside the present widths of the other groups."""
        stays = choices != 0
        if stays.all():
            return self._along(widths, group, choices)
        costs = np.repeat(self({**widths, group: 0}), len(choices))  # other layers live: a sum of its own
        if stays.any():
            costs[stays] = self._along(widths, group, choices[stays])
        return costs

    def _along(self, widths: Widths, group: str, choices: np.ndarray) -> np.ndarray:
        if not len(choices):
            return np.zeros(0)
        least = int(choices.min())
        self._checked({**widths, group: int(choices.max())})
        living = self._living({**widths, group: least})
        counts, units = self._units @ self._checked({**widths, group: least}), self._units[:, self._number[group]]
        terms, wider = self._terms(living, counts), choices - least
        touched = np.flatnonzero(units[living.reads] + units[living.writes])
        if not touched.size:
            return np.repeat(_running(terms)[-1], len(choices))
        first = touched[0]
        sums = np.repeat(terms[np.newaxis, first:], len(choices), axis=0)  # [choices, layers from the first touched]
        for i in touched:
            cin, cout = (counts[t] + units[t] * wider for t in (living.reads[i], living.writes[i]))
            sums[:, i - first] = self.prices[living.names[i]](cin, cout)
        sums[:, 0] += _running(terms[:first])[-1]
        return np.add.accumulate(sums, axis=1)[:, -1]

    # --- what lives, and what it costs -------------------------------------------------------------------------

    def _living(self, widths: Widths) -> Living:
        """It depends on nothing but which groups are gone."""
        gone = frozenset(name for name, width in widths.items() if not width)
        if gone not in self._known_living:
            layers = [layer for layer in self.network.layers(widths) if layer.node.name in self.prices]
            reads, writes = ([self._tensors[name] for name in names] for names in (
                [layer.reads for layer in layers], [layer.node.name for layer in layers]))
            self._known_living[gone] = Living([layer.node.name for layer in layers], np.array(reads, int),
                                              np.array(writes, int))
        return self._known_living[gone]

    def _terms(self, living: Living, counts: np.ndarray) -> np.ndarray:
        """The price of every living layer; counts: channels of every tensor."""
        known, found = self._known_prices, []
        for key in zip(living.names, counts[living.reads].tolist(), counts[living.writes].tolist()):
            price = known.get(key)
            if price is None:
                price = known[key] = self.prices[key[0]](key[1], key[2])
            found.append(price)
        return np.array(found)

    def _checked(self, widths: Widths) -> np.ndarray:
        """The widths as numbers. Raises ValueError, naming the group, unless they are valid."""
        found = np.array([widths[name] for name in self._number])
        low, high = self._bounds
        if ((found < low) | (found > high)).any():
            self.network.check_widths(widths)
        return found

    @cached_property
    def _known_living(self) -> dict[frozenset[str], Living]:
        return {}

    @cached_property
    def _known_prices(self) -> dict[tuple[str, int, int], Any]:
        """{(node, cin, cout): its price}"""
        return {}

    # --- the network in numbers --------------------------------------------------------------------------------

    @cached_property
    def _number(self) -> dict[str, int]:
        return {g.name: number for number, g in enumerate(self.network.groups)}

    @cached_property
    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        groups = self.network.groups
        return np.array([0 if g.prunable else g.width for g in groups]), np.array([g.width for g in groups])

    @cached_property
    def _tensors(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.network.tensors)}

    @cached_property
    def _units(self) -> np.ndarray:
        """Channels of a tensor for a unit of a group: [tensors, groups]."""
        found = np.zeros((len(self._tensors), len(self._number)), int)
        for name, tensor in self.network.tensors.items():
            for segment in tensor.channels:
                found[self._tensors[name], self._number[segment.group]] += segment.repeat
        return found


@dataclass(frozen=True)
class BeyondCache:
    """layers(widths) + max(memory(widths) - cached, 0): networks whose weights fit into a cache do not pay for memory.
    """

    layers: LayerSum
    memory: LayerSum
    cached: float

    def __call__(self, widths: Widths) -> float:
        return self.layers(widths) + max(self.memory(widths) - self.cached, 0.0)

    def along(self, widths: Widths, group: str, choices: np.ndarray) -> np.ndarray:
        """Like ``LayerSum.along``."""
        more = self.memory.along(widths, group, choices) - self.cached
        return self.layers.along(widths, group, choices) + np.maximum(more, 0.0)


def priced(network: Network, prices: Mapping[str, Price], memory: Mapping[str, Price],
           cached: float) -> Union[LayerSum, BeyondCache]:
    """What a network costs by these prices; memory: those of reading weights from memory, empty where there are none.
    """
    layers = LayerSum(network, prices)
    return BeyondCache(layers, LayerSum(network, memory), cached) if memory else layers


def _running(terms: np.ndarray) -> np.ndarray:
    """The sum up to every term, from 0 on: one addition after another, where np.sum adds in pairs."""
    return np.add.accumulate(np.concatenate((np.zeros(1, terms.dtype), terms)))
