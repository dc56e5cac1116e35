"""Steps of a traced module (tracer.py) as a description: how its tensors lie, and whose weights are put in order.

Channels that are handed on in another order (a channel shuffle) cost nothing at run time: the description joins them in
an order of its own, and the weights of whoever reads them are put into that order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Optional

import numpy as np

from model.folding import folded
from model.grouping import Groups, numbered
from model.network import Group, Input, Network
from model.operators import Channels, Node, Segment
from model.tracer import Refused, Step

MOST_RUNS = 64  # of a layer's channels


@dataclass(frozen=True)
class Described:
    """A network that was read in.

    orders: {parameter: {axis: order of its channels here}}, where it is not the user's. reasons: {group: why it cannot
    be pruned}. computed: {node: the step whose output it computes}, for those whose channels lie as the user's do.
    """

    network: Network
    orders: dict[str, dict[int, np.ndarray]]
    reasons: dict[str, str]
    computed: dict[str, str]


class _OrderMatters(Refused):
    """Channels in an order of ours will not do; that of a channel shuffle at run time may."""


def described(steps: Sequence[Step], kept: Mapping[str, str] = {}) -> Described:
    """The network of these steps. kept: {parameter: reason} of layers whose outputs are not to be pruned. Raises
    Refused."""
    steps = folded(steps)
    _check_used_once(steps)
    numbers, units = numbered(steps, kept)
    parts, seen = np.zeros(len(units.parent), np.int64), set()
    while True:
        groups = Groups(steps, numbers, units, parts)
        odd = groups.out_of_order(steps, numbers)
        if odd is None:
            try:
                return _written(steps, numbers, groups)
            except ValueError as error:
                raise error if isinstance(error, Refused) else Refused(f"it cannot be described: {error}") from error
        runs = groups.runs(odd)
        state = (odd.tobytes(), len(groups.members))
        if runs.max() < MOST_RUNS and state not in seen:  # what stands in the same tensors, but not side by side
            seen.add(state)
            parts[groups.roots[odd]] = parts.max() + 1 + runs
        else:
            units.unite(odd[:-1], odd[1:])  # one unit that cannot be pruned has no order inside
            units.lock(odd, "its channels meet others in another order")


def _written(steps: Sequence[Step], numbers: Mapping[str, np.ndarray], groups: Groups) -> Described:
    try:
        return _Writer(steps, numbers, groups).described()
    except _OrderMatters:
        return _Writer(steps, numbers, groups, shuffles=True).described()


def _check_used_once(steps: Sequence[Step]) -> None:
    seen: dict[str, str] = {}
    for step in steps:
        for name in step.parameters.values():
            if name in seen:
                raise Refused(f"{name}: used twice, by {seen[name]} and {step.name}; give each layer weights of its "
                              "own")
            seen[name] = step.name


# --- steps to nodes --------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class _Lies:
    """How a tensor lies in the description: its node, its segments, and the user's channel at every place (None: the
    same)."""

    node: str
    channels: Channels
    order: Optional[np.ndarray]


class _Writer:
    """Writes the nodes, one by one."""

    def __init__(self, steps: Sequence[Step], numbers: Mapping[str, np.ndarray], groups: Groups, *,
                 shuffles: bool = False):
        """shuffles: channel shuffles become nodes, where they are ones of blocks that are alike."""
        self.steps, self.numbers, self.groups, self.shuffles = steps, numbers, groups, shuffles
        self.lies: dict[str, _Lies] = {}
        self.nodes: list[Node] = []
        self.names: set[str] = set()
        self.orders: dict[str, dict[int, np.ndarray]] = {}
        self.parts: dict[Any, str] = {}
        self.computed: dict[str, str] = {}
        self.group_names = self._group_names()
        self.widths = {name: len(members) for name, members in zip(self.group_names, groups.members)}

    def described(self) -> Described:
        groups = [Group(name, len(members), prunable=not reason) for name, members, reason in zip(
            self.group_names, self.groups.members, self.groups.reasons)]
        image, *steps = self.steps
        self.lies["image"] = _Lies("image", self._segments(image), None)
        self.names.add("image")
        for step in steps:
            self.lies[step.name] = self._written(step)
        entry = self.lies["image"].channels[0].group
        height, width = image.sides
        network = Network({}, (Input("image", entry, height if height == width else (height, width)),), tuple(groups),
                          tuple(self.nodes))
        network = replace(network, groups=tuple(replace(g, removable=g.prunable and network.lives(
            {**network.full_widths, g.name: 0})) for g in groups))
        reasons = {name: reason for name, reason in zip(self.group_names, self.groups.reasons) if reason}
        return Described(network, self.orders, reasons, self.computed)

    def _group_names(self) -> list[str]:
        """After the first layer that writes it."""
        found: dict[int, str] = {}
        for step in self.steps:
            for number in dict.fromkeys(self.groups.group_of[self.groups.roots[self.numbers[step.name]]].tolist()):
                found.setdefault(number, _identifier(step))
        taken: set[str] = set()
        return [_unique(found[number], taken) for number in range(len(self.groups.members))]

    def _segments(self, step: Step) -> Channels:
        parsed = self.groups.parsed(self.numbers[step.name])
        assert parsed is not None, step.name
        return tuple(Segment(self.group_names[group], repeat) for group, repeat in parsed)

    def _node(self, step: Step, kind: str, inputs: Sequence[str], channels: Channels = (), **fields: Any) -> str:
        name = _unique(_identifier(step), self.names)
        self.nodes.append(Node(name, kind, tuple(inputs), channels, **fields))
        return name

    def _written(self, step: Step) -> _Lies:
        if step.kind == "select":
            return self._selected(step)
        read = [self.lies[name] for name in step.inputs]
        fields, x = {k: v for k, v in step.fields.items() if k != "groups"}, read[0]
        paths = self._paths(step)
        if step.kind in ("conv", "linear"):
            if fields.get("grouped") and x.order is not None:
                raise _OrderMatters(f"{step.name} in {step.place}: a grouped convolution behind a channel shuffle")
            channels, order = self._segments(step), None
            if x.order is not None:
                self.orders.setdefault(step.parameters["weight"], {})[1] = x.order
        elif step.kind in ("add", "multiply"):
            read = [x, *(self._like(step, other, x) for other in read[1:])]
            channels, order = x.channels, x.order
        else:
            channels, order = self._passed_on(step, x)
        if order is not None:
            for parameter in step.parameters.values():
                self.orders.setdefault(parameter, {})[0] = order
        named = channels if step.kind in ("conv", "linear", "pad_channels") else ()
        if step.kind == "pad_channels":
            fields["part"] = self._part(channels, x.channels, step.fields["part"][0])
        node = self._node(step, step.kind, [r.node for r in read], named, **fields, **paths)
        if order is None:
            self.computed[node] = step.name
        return _Lies(node, channels, order)

    def _passed_on(self, step: Step, x: _Lies) -> tuple[Channels, Optional[np.ndarray]]:
        """The channels behind an operator that has those of its input."""
        repeat = {"depthwise": step.fields.get("multiplier", 1)}.get(step.kind, 1)
        if step.kind == "flatten":
            repeat = step.channels // sum(self.widths[s.group] * s.repeat for s in x.channels)
        if step.kind == "pad_channels":
            if x.order is not None:
                raise _OrderMatters(f"{step.name} in {step.place}: channels of zeros behind a channel shuffle")
            first, last = step.fields["part"]
            inside = self.groups.parsed(self.numbers[step.name][first:last])
            if self.groups.parsed(self.numbers[step.name]) is None or inside is None or tuple(
                    Segment(self.group_names[g], r) for g, r in inside) != x.channels:
                raise Refused(f"{step.name} in {step.place}: channels of zeros that meet others in another order")
            return self._segments(step), None
        channels = tuple(Segment(s.group, s.repeat * repeat) for s in x.channels)
        if x.order is None or repeat == 1:
            return channels, x.order
        return channels, (x.order[:, None] * repeat + np.arange(repeat)).ravel()

    def _part(self, channels: Channels, inside: Channels, before: int) -> tuple[int, int]:
        first, at = 0, 0
        while at < before:
            at += self.widths[channels[first].group] * channels[first].repeat
            first += 1
        return first, first + len(inside)

    def _paths(self, step: Step) -> dict[str, str]:
        """The paths of a step's parameters in the user's module."""
        found = {}
        for prefix, field in (("", "module"), ("bn.", "bn_module")):
            names = {k.removeprefix(prefix): v for k, v in step.parameters.items()
                     if k.startswith("bn.") == bool(prefix)}
            if "" in names:
                found[field] = names[""]
            elif names:
                key, name = next(iter(names.items()))
                path = name.removesuffix(f".{key}")
                if any(f"{path}.{k}" != v for k, v in names.items()):
                    raise Refused(f"{step.name} in {step.place}: its parameters {', '.join(names.values())} are not "
                                  "those of one module")
                found[field] = path
        return found

    # --- channels in another order -----------------------------------------------------------------------------

    def _selected(self, step: Step) -> _Lies:
        """Channels of several tensors as they were picked; if these are no whole segments, in an order of ours."""
        sources = [self.lies[name] for name in step.inputs]
        places = [np.argsort(s.order) if s.order is not None else None for s in sources]  # of the user's channels
        picks = [(i, int(place[c]) if (place := places[i]) is not None else c) for i, c in step.picks]
        return self._joined(step, sources, picks)

    def _like(self, step: Step, x: _Lies, other: _Lies) -> _Lies:
        """x with its channels as they lie in ``other``."""
        if x.channels == other.channels and (x.order is other.order or x.order is not None and other.order is not None
                                             and np.array_equal(x.order, other.order)):
            return x
        place = np.arange(step.channels) if x.order is None else np.argsort(x.order)
        wanted = np.arange(step.channels) if other.order is None else other.order
        found = self._joined(step, [x], [(0, int(c)) for c in place[wanted]])
        if found.order is not None or found.channels != other.channels:
            raise _OrderMatters(f"{step.name} in {step.place}: its operands have their channels in different orders")
        return found

    def _joined(self, step: Step, sources: Sequence[_Lies], picks: Sequence[tuple[int, int]]) -> _Lies:
        starts = [self._starts(s.channels) for s in sources]
        whole, order = _in_order(picks, starts), None
        if whole is None:
            whole, order = _in_our_order(step, picks, starts)
        runs: list[list[int]] = []
        for i, number in whole:
            if runs and runs[-1][0] == i and runs[-1][2] == number:
                runs[-1][2] += 1
            else:
                runs.append([i, number, number + 1])
        inputs = [self._split(step, sources[i], first, last) for i, first, last in runs]
        channels = tuple(sources[i].channels[number] for i, number in whole)
        node = inputs[0] if len(inputs) == 1 else self._node(step, "concat", inputs)
        blocks = _blocks(order, channels) if self.shuffles and order is not None else 0
        if not blocks:
            return _Lies(node, channels, order)
        channels = tuple(Segment(s.group, s.repeat * blocks) for s in channels[:len(channels) // blocks])
        return _Lies(self._node(step, "shuffle", [node], blocks=blocks), channels, None)

    def _starts(self, channels: Channels) -> list[int]:
        """Where each segment begins, and where the last one ends."""
        return np.cumsum([0, *(self.widths[s.group] * s.repeat for s in channels)]).tolist()

    def _split(self, step: Step, source: _Lies, first: int, last: int) -> str:
        if (first, last) == (0, len(source.channels)):
            return source.node
        key = (source.node, first, last)
        if key not in self.parts:
            self.parts[key] = self._node(step, "split", [source.node], part=(first, last))
        return self.parts[key]


def _in_order(picks: Sequence[tuple[int, int]], starts: Sequence[Sequence[int]]) -> Optional[list[tuple[int, int]]]:
    """[(source, segment)] of picks that are whole segments, one behind the other; None if they are not."""
    found, at = [], 0
    while at < len(picks):
        source, place = picks[at]
        if place not in starts[source][:-1]:
            return None
        number = starts[source].index(place)
        count = starts[source][number + 1] - place
        if list(picks[at:at + count]) != [(source, place + n) for n in range(count)]:
            return None
        found.append((source, number))
        at += count
    return found


def _in_our_order(step: Step, picks: Sequence[tuple[int, int]],
                  starts: Sequence[Sequence[int]]) -> tuple[list[tuple[int, int]], np.ndarray]:
    """([(source, segment)] in order of their first pick, the pick at every place)."""
    at = {pick: number for number, pick in enumerate(picks)}
    segments = list(dict.fromkeys((i, int(np.searchsorted(starts[i], place, side="right")) - 1) for i, place in picks))
    places = [(i, place) for i, number in segments for place in range(starts[i][number], starts[i][number + 1])]
    if len(at) != len(picks) or len(places) != len(picks) or any(place not in at for place in places):
        raise Refused(f"{step.name} in {step.place}: channels handed on in a way that no order of whole groups gives")
    return segments, np.array([at[place] for place in places])


def _blocks(order: np.ndarray, channels: Channels) -> int:
    """The number of blocks, alike, whose channel shuffle gives this order; 0 if none does."""
    for blocks in range(2, len(channels) + 1):
        size, part = len(order) // blocks, len(channels) // blocks
        alike = len(channels) % blocks == 0 and channels == channels[:part] * blocks
        if alike and np.array_equal(order, np.arange(len(order)) % size * blocks + np.arange(len(order)) // size):
            return blocks
    return 0


def _identifier(step: Step) -> str:
    path = next((v.rpartition(".")[0] or v for k, v in step.parameters.items() if k in ("weight", "")), "")
    words = "".join(c if c.isascii() and c.isalnum() else "_" for c in (path or step.name))
    return words if words[0].isalpha() or words[0] == "_" else f"n{words}"


def _unique(name: str, taken: set[str]) -> str:
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    taken.add(found)
    return found
