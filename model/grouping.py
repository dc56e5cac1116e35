"""Steps of a traced module (tracing.py) as a description: which channels are one group, and how tensors lie.

Every channel of every tensor has a number. A convolution makes new numbers; an addition and a product unite those that
meet (union-find); whatever hands channels on hands their numbers on. A *unit* is a set of united numbers: it is pruned
as a whole. A group is a set of units that stand in the same tensors, equally often. So a cut through the output of a
convolution makes two groups of it.

Channels that are handed on in another order (a channel shuffle) cost nothing at run time: the description joins them in
an order of its own, and the weights of whoever reads them are put into that order.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Optional

import numpy as np

from model.network import Group, Input, Network
from model.operators import OPERATORS, Channels, Node, Segment
from model.tracer import Refused, Step

MOST_RUNS = 64  # of a layer's channels
FOLDS_NORM = ("conv", "depthwise", "linear")  # a batch norm behind it becomes a part of it
FOLDS_ACTIVATION = (*FOLDS_NORM, "batch_norm", "add")


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


class _Units:
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


def described(steps: Sequence[Step], kept: Mapping[str, str] = {}) -> Described:
    """The network of these steps. kept: {parameter: reason} of layers whose outputs are not to be pruned. Raises
    Refused."""
    steps = _folded(steps)
    _check_used_once(steps)
    numbers, units = _numbered(steps, kept)
    parts, seen = np.zeros(len(units.parent), np.int64), set()
    while True:
        groups = _Groups(steps, numbers, units, parts)
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


def _written(steps: Sequence[Step], numbers: Mapping[str, np.ndarray], groups: "_Groups") -> Described:
    try:
        return _Writer(steps, numbers, groups).described()
    except _OrderMatters:
        return _Writer(steps, numbers, groups, shuffles=True).described()


# --- steps that are one node -----------------------------------------------------------------------------------

def _folded(steps: Sequence[Step]) -> list[Step]:
    """The steps with batch norms, activations and paddings as parts of the layers that they follow or precede."""
    found = list(steps)
    for rule in (_fold_norm, _fold_activation, _fold_padding, _fold_pool):
        readers = defaultdict(list)
        for step in found:
            for name in step.inputs:
                readers[name].append(step.name)
        by_name, gone, changed, last = {s.name: s for s in found}, set(), {}, found[-1].name
        for step in found:
            before = changed.get(step.inputs[0], by_name[step.inputs[0]]) if len(step.inputs) == 1 else None
            if before is None or readers[before.name] != [step.name] or before.name == last:
                continue
            one = rule(before, step)
            if one is not None:
                gone.add(before.name)
                changed[step.name] = replace(one, name=step.name)
        found = [changed.get(s.name, s) for s in found if s.name not in gone]
    return found


def _fold_norm(before: Step, step: Step) -> Optional[Step]:
    if step.kind != "batch_norm" or before.kind not in FOLDS_NORM or "bn" in before.fields:
        return None
    fields = {**before.fields, "bn": True, **{k: step.fields[k] for k in ("bn_epsilon", "bn_momentum")}}
    return replace(before, fields=fields, parameters={**before.parameters,
                                                      **{f"bn.{k}": v for k, v in step.parameters.items()}})


def _fold_activation(before: Step, step: Step) -> Optional[Step]:
    if step.kind != "activation" or before.kind not in FOLDS_ACTIVATION or "activation" in before.fields:
        return None
    return replace(before, fields={**before.fields, **step.fields})


def _fold_padding(before: Step, step: Step) -> Optional[Step]:
    if before.kind != "pad" or step.kind not in ("conv", "depthwise"):
        return None
    padding = tuple(a + b for a, b in zip(before.fields["padding"], step.fields["padding"]))
    return replace(step, inputs=before.inputs, fields={**step.fields, "padding": padding})


def _fold_pool(before: Step, step: Step) -> Optional[Step]:
    if before.kind != "adaptive_average_pool" or step.kind != "flatten" or before.sides != (1, 1):
        return None
    return replace(step, kind="pool", inputs=before.inputs, fields={})


def _check_used_once(steps: Sequence[Step]) -> None:
    seen: dict[str, str] = {}
    for step in steps:
        for name in step.parameters.values():
            if name in seen:
                raise Refused(f"{name}: used twice, by {seen[name]} and {step.name}; give each layer weights of its "
                              "own")
            seen[name] = step.name


# --- units and groups ------------------------------------------------------------------------------------------

def _numbered(steps: Sequence[Step], kept: Mapping[str, str]) -> tuple[dict[str, np.ndarray], _Units]:
    """The channel numbers of every step's output, and the units that they make."""
    units, found, pixels = _Units(), {}, {s.name: s.pixels for s in steps}
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


class _Groups:
    """The groups of all units: units that stand in the same tensors, equally often."""

    def __init__(self, steps: Sequence[Step], numbers: Mapping[str, np.ndarray], units: _Units, parts: np.ndarray):
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

    def __init__(self, steps: Sequence[Step], numbers: Mapping[str, np.ndarray], groups: _Groups, *,
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
