"""Which channels of traced steps (tracer.py) are one group.

Every channel of every tensor has a number. A convolution makes new numbers; an addition and a product unite those that
meet (union-find); whatever hands channels on hands their numbers on. A *unit* is a set of united numbers: it is pruned
as a whole. A group is a set of units that stand in the same tensors, equally often. So a cut through the output of a
convolution makes two groups of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Optional

import numpy as np

from model.operators import OPERATORS
from model.tracer import Step


class Units:
    """Union-find over channel numbers."""

    def __init__(self) -> None:
        self.parent = np.zeros(0, np.int64)
        self.locked: dict[int, str] = {}  # {number: reason}

    def new(self, count: int) -> np.ndarray:
        first = len(self.parent)
        self.parent = np.append(self.parent, np.arange(first, first + count))
        return np.arange(first, first + count)

    def find(self, number: int) -> int:
        while self.parent[number] != number:
            self.parent[number] = self.parent[self.parent[number]]
            number = self.parent[number]
        return int(number)

    def unite(self, one: np.ndarray, other: np.ndarray) -> None:
        for a, b in zip(one.tolist(), other.tolist()):
            a, b = self.find(a), self.find(b)
            if a != b:
                self.parent[max(a, b)] = min(a, b)

    def lock(self, numbers: np.ndarray, reason: str) -> None:
        for number in numbers.tolist():
            self.locked.setdefault(number, reason)

    def roots(self) -> np.ndarray:
        """The unit of every number."""
        roots = self.parent.copy()
        while True:
            further = roots[roots]
            if np.array_equal(further, roots):
                return roots
            roots = further


def numbered(steps: Sequence[Step], kept: Mapping[str, str]) -> tuple[dict[str, np.ndarray], Units]:
    """The channel numbers of every step's output, and the units that they make."""
    units, found, pixels = Units(), {}, {s.name: s.pixels for s in steps}
    for step in steps:
        read = [found[name] for name in step.inputs]
        x, fields = (read[0] if read else np.zeros(0, np.int64)), step.fields
        if step.kind in ("image", "conv", "linear"):
            x, reads = units.new(step.channels), x
            if step.kind == "image":
                units.lock(x, "the image")
            if fields.get("grouped"):
                for inside, made in zip(np.split(reads, fields["groups"]), np.split(x, fields["groups"])):
                    together = np.concatenate([inside, made])
                    units.unite(together[:-1], together[1:])
        elif step.kind == "depthwise":
            x = np.repeat(x, fields["multiplier"])
        elif step.kind == "select":
            x = np.array([read[i][c] for i, c in step.picks])
        elif step.kind in ("add", "multiply"):
            for other in read[1:]:
                units.unite(x, other)
        elif step.kind == "flatten":
            x = np.repeat(x, pixels[step.inputs[0]])
        elif step.kind == "pad_channels":
            first, last = fields["part"]
            x = np.concatenate([units.new(first), x, units.new(step.channels - last)])
        if OPERATORS[step.kind].mixes if step.kind in OPERATORS else False:
            units.lock(x, f"a {step.kind.replace('_', ' ')} needs all of its channels")
        for reason in [kept[p] for p in step.parameters.values() if p in kept]:
            units.lock(x, reason)
        found[step.name] = x
    units.lock(found[steps[-1].name], "the output of the network")
    return found, units


class Groups:
    """The groups of all units: units that stand in the same tensors, equally often."""

    def __init__(self, steps: Sequence[Step], numbers: Mapping[str, np.ndarray], units: Units, parts: np.ndarray):
        """parts: of every number; units of different parts are different groups."""
        self.roots = units.roots()
        count = len(self.roots)
        sign = np.zeros(count, np.uint64)
        for step in steps:
            stands = np.bincount(self.roots[numbers[step.name]], minlength=count).astype(np.uint64)
            sign = (sign ^ (sign >> np.uint64(29))) * np.uint64(6364136223846793005) + stands + np.uint64(1)
        reasons: dict[int, str] = {}
        for number, reason in units.locked.items():
            reasons.setdefault(int(self.roots[number]), reason)
        self.group_of = np.full(count, -1)
        self.index = np.zeros(count, np.int64)
        self.members: list[np.ndarray] = []  # the units of every group, ascending
        self.reasons: list[str] = []
        known: dict[Any, list[int]] = {}
        for root in np.flatnonzero(self.roots == np.arange(count)).tolist():
            known.setdefault((int(sign[root]), int(parts[root]), reasons.get(root, "")), []).append(root)
        for (_, _, reason), members in known.items():
            self.group_of[members], self.index[members] = len(self.members), np.arange(len(members))
            self.members.append(np.array(members))
            self.reasons.append(reason)

    def parsed(self, numbers: np.ndarray) -> Optional[list[tuple[int, int]]]:
        """[(group, repeat)] of a tensor's channels; None if they are not whole groups in order."""
        units, found, at = self.roots[numbers], [], 0
        while at < len(units):
            group = int(self.group_of[units[at]])
            members = self.members[group]
            changes = np.flatnonzero(units[at:] != units[at])
            repeat = int(changes[0]) if len(changes) else len(units) - at
            expected = np.repeat(members, repeat)
            if not np.array_equal(units[at:at + len(expected)], expected):
                return None
            found.append((group, repeat))
            at += len(expected)
        return found

    def runs(self, numbers: np.ndarray) -> np.ndarray:
        """For every channel of a tensor, the number of the run of ascending units of one group that it is in."""
        units = self.roots[numbers]
        group, index = self.group_of[units], self.index[units]
        breaks = (group[1:] != group[:-1]) | (index[1:] < index[:-1])
        return np.concatenate([[0], np.cumsum(breaks)])

    def out_of_order(self, steps: Sequence[Step], numbers: Mapping[str, np.ndarray]) -> Optional[np.ndarray]:
        """The channels of a layer whose filters would have to lie in another order; None if there is none."""
        for step in steps:
            if step.kind in ("image", "conv", "linear") and self.parsed(numbers[step.name]) is None:
                return numbers[step.name]
        return None
