"""A network is data: nodes in execution order, channel groups, and the widths of those groups.

Everything else is derived from ``(network, widths)``: the torch and Keras models, which layers change when a
group shrinks, what a latency table must measure, the latency itself, and the .tflite files.

    network = describe("res", depth=16, width=1.0)       # model/architectures.py
    widths = dict(network.full_widths, Conv_2_1_1=0)     # remove one block
    for layer in network.layers(widths): ...             # what is left of the network, in order

A channel count belongs to a *group*, not to a layer: the channels of every tensor are segments of groups
(operators.py). Width 0 removes a branch. A node dies with its input; an addition and a concatenation go on with the
operands that live; a product with a dead gate passes the map through. An addition that is left with one operand keeps
its activation unless that operand cannot be negative, so that removing a branch equals zeroing it.

Runs on Python 3.9 with the standard library alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Optional, Union

from model.operators import (
    OPERATORS,
    Channels,
    Node,
    Segment,
    Sides,
    Tensor,
    Weight,
    Widths,
    count,
    filter_elements,
    non_negative,
    output_of,
    pair,
    parameters_of,
    trainable_elements,
    units,
)
from model.timed import Table, table_of, takes_time, widest


@dataclass(frozen=True)
class Group:
    """Units that several layers share and that are pruned together. ``removable``: the width may become 0."""

    name: str
    width: int
    prunable: bool = True
    removable: bool = False


@dataclass(frozen=True)
class Input:
    """A map that enters the network, with the channels of ``group``; size: pixels, a side or (height, width)."""

    name: str
    group: str
    size: Union[int, Sides]
    channels: Channels = ()  # other segments than one of that group

    @property
    def tensor(self) -> Tensor:
        return Tensor(self.channels or units(self.group), self.sides)

    @property
    def sides(self) -> Sides:
        return pair(self.size)


@dataclass(frozen=True)
class Layer:
    """A node that is alive at some widths: its channels, its sides in pixels and the live tensors it reads."""

    node: Node
    inputs: tuple[str, ...]
    reads: str  # the tensor of cin channels: the first of the inputs; where operands may go, the node's own
    cin: int
    cout: int
    in_sides: Sides
    out_sides: Sides

    @property
    def in_size(self) -> int:
        """The side of a square map that it reads, pixels."""
        return self.in_sides[0]

    @property
    def out_size(self) -> int:
        return self.out_sides[0]


@dataclass(frozen=True)
class Network:
    """Inputs, groups and nodes. :func:`model.architectures.describe` rebuilds the network from ``arguments``."""

    arguments: dict[str, Any]
    inputs: tuple[Input, ...]
    groups: tuple[Group, ...]
    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        _ = self.tensors  # what contradicts itself is refused
        seen: set[str] = set()
        for node in self.nodes:
            names = set(parameters_of(node, 1, 1))
            if names & seen:
                raise ValueError(f"node {node.name}: {min(names & seen)} is also a parameter of another node")
            seen |= names
            pruned = [s.group for s in self.tensors[node.name].channels if self.group[s.group].prunable]
            if OPERATORS[node.kind].mixes and pruned:
                raise ValueError(f"node {node.name}: a {node.kind} needs all channels of {pruned[0]}, which is "
                                 "prunable")

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the unpruned network: {input or node name: its segments and sides}."""
        found: dict[str, Tensor] = {}
        for entry in self.inputs:
            found[entry.name] = entry.tensor
            for segment in entry.tensor.channels:
                if segment.group not in self.group:
                    raise ValueError(f"input {entry.name}: unknown group {segment.group}")
        for node in self.nodes:
            missing = [name for name in node.inputs if name not in found]
            unknown = [s.group for s in node.channels if s.group not in self.group]
            if missing or unknown or node.name in found:
                raise ValueError(f"node {node.name}: unknown input or group {', '.join(missing + unknown)}"
                                 if missing or unknown else f"node {node.name}: a name used twice")
            try:
                found[node.name] = output_of(node, [found[name] for name in node.inputs])
            except ValueError as error:
                raise ValueError(f"node {node.name}: a {node.kind}: {error}") from error
        return found

    @cached_property
    def group(self) -> dict[str, Group]:
        return {g.name: g for g in self.groups}

    @cached_property
    def full_widths(self) -> dict[str, int]:
        """Widths of the unpruned network: {group: channels}."""
        return {g.name: g.width for g in self.groups}

    @property
    def output(self) -> str:
        return self.nodes[-1].name

    @property
    def short_name(self) -> str:
        """A name without the image size and the number of classes, such as res-40-2."""
        sizes = (v for k, v in self.arguments.items() if k not in ("img_size", "num_classes", "description"))
        return "-".join(f"{v:g}" if isinstance(v, (int, float)) else str(v) for v in sizes)

    @property
    def title(self) -> str:
        """The arguments in a line, for messages: net res, depth 40, width 2, ..."""
        return ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in self.arguments.items()
                         if k != "description")

    def producers(self, group: str) -> tuple[Node, ...]:
        """Nodes whose filters write the group: they lose outputs when it shrinks."""
        return tuple(n for n in self.nodes if OPERATORS[n.kind].writes and any(s.group == group for s in n.channels))

    @cached_property
    def streams(self) -> frozenset[str]:
        """The groups of residual streams: those whose channels meet in an addition."""
        return frozenset(s.group for n in self.nodes if OPERATORS[n.kind].needs == "any"
                         for s in self.tensors[n.name].channels)

    # --- what lives at which widths ----------------------------------------------------------------------------

    def check_widths(self, widths: Widths) -> None:
        """Raise ValueError, naming the group, unless ``widths`` is a valid choice for this network."""
        for name in sorted(set(widths) ^ set(self.full_widths)):
            raise ValueError(f"{name}: {'not a group of this network' if name in widths else 'width missing'}")
        for g in self.groups:
            low = 0 if g.removable else 1 if g.prunable else g.width
            width = widths[g.name]
            if isinstance(width, bool) or not isinstance(width, int) or not low <= width <= g.width:
                raise ValueError(f"{g.name}: expected {low} to {g.width} channels, found {width!r}")

    def lives(self, widths: Widths) -> bool:
        """Whether these widths make a network: groups that may go each need not go together."""
        return self._live(widths)[1] is not None

    def layers(self, widths: Widths) -> tuple[Layer, ...]:
        """The nodes that are alive and read at these widths, in execution order.

        Raises ValueError if the widths are not valid or nothing reaches the output.
        """
        self.check_widths(widths)
        layers, last, problem = self._live(widths)
        if last is None:
            raise ValueError(problem or f"at these widths nothing reaches the output {self.output}")
        read, found = {last}, []
        for layer in reversed(layers):
            if layer.node.name in read:
                read.update(layer.inputs)
                found.append(layer)
        return tuple(reversed(found))

    def _live(self, widths: Widths) -> tuple[list[Layer], Optional[str], str]:
        """The nodes that are alive, what stands for the output (None where it is dead), and what is wrong, if known."""
        alias: dict[str, Optional[str]] = {i.name: i.name for i in self.inputs}  # what stands for a tensor; None: dead
        channels = {i.name: count(i.tensor.channels, widths) for i in self.inputs}
        positive: set[str] = set()  # live tensors that cannot be negative
        layers = []
        for node, needs, segments, in_sides, out_sides in self._steps:
            inputs = tuple([live for live in map(alias.get, node.inputs) if live is not None])
            complete = len(inputs) == len(node.inputs)
            cout = sum([widths[s.group] * s.repeat for s in segments])
            if not cout or not (complete or (needs in ("any", "parts") and inputs) or (
                    needs == "first" and alias[node.inputs[0]] is not None)):
                alias[node.name] = None
                continue
            if not complete and needs == "parts":
                for name in node.inputs:
                    if alias[name] is None and count(self.tensors[name].channels, widths):
                        return layers, None, f"at these widths {name} is gone, but {node.name} needs its channels"
            above = positive.issuperset(inputs)
            if not complete and len(inputs) == 1 and (node.transparent or not node.bn and (
                    not node.activation or node.activation == "relu" and above)):
                alias[node.name] = inputs[0]
                continue
            alias[node.name], channels[node.name] = node.name, cout
            reads = node.name if needs in ("any", "parts") else inputs[0]
            layers.append(Layer(node, inputs, reads, channels[reads], cout, in_sides, out_sides))
            if non_negative(node, above):
                positive.add(node.name)
        return layers, alias[self.output], ""

    @cached_property
    def _steps(self) -> list[tuple[Node, str, Channels, Sides, Sides]]:
        """What _live needs of every node."""
        return [(n, OPERATORS[n.kind].needs, self.tensors[n.name].channels, self.tensors[n.inputs[0]].sides,
                 self.tensors[n.name].sides) for n in self.nodes]

    # --- what is derived ---------------------------------------------------------------------------------------

    @cached_property
    def tables(self) -> dict[str, Table]:
        """The latency tables this network needs, by key. Nodes of one key must be the same operator."""
        tables: dict[str, Table] = {}
        for table in self._table_of_node.values():
            tables[table.key] = widest(tables.get(table.key, table), table)
        return tables

    @cached_property
    def priced(self) -> dict[str, str]:
        """{node: key of its latency table}, of those that are priced."""
        return {name: table.key for name, table in self._table_of_node.items()}

    @cached_property
    def _table_of_node(self) -> dict[str, Table]:
        """By node. A description that names no tables has one for every operator that takes time."""
        pools, found = self._measured_with_reader, {}
        for layer in self.layers(self.full_widths):
            node, inputs = layer.node, [self.tensors[name] for name in layer.node.inputs]
            if node.table is None and (self.names_tables or not takes_time(node, inputs[0])):
                continue
            pool = pools.get(self._source(node.inputs[0]))
            if pool:
                inputs[0] = self.tensors[pool.inputs[0]]
            found[node.name] = table_of(node, inputs, self.tensors[node.name].channels, self._fixed, cin=layer.cin,
                                        cout=layer.cout, pooled=pool is not None)
        return found

    def _fixed(self, segment: Segment) -> Optional[int]:
        """The width of the segment's group where it cannot vary."""
        group = self.group[segment.group]
        return None if group.prunable else group.width

    @cached_property
    def names_tables(self) -> bool:
        """Whether the network says which layers share a latency table, as this project's architectures do."""
        return any(n.table is not None for n in self.nodes)

    @cached_property
    def _measured_with_reader(self) -> dict[str, Node]:
        """Pools without a table of their own, by name. Raises ValueError if one would be priced more than once."""
        pools = {n.name: n for n in self.nodes
                 if self.names_tables and OPERATORS[n.kind].with_reader and n.table is None}
        for name in pools:
            readers = [n.name for n in self.nodes if n.table is not None and name in map(self._source, n.inputs)]
            if len(readers) > 1:
                raise ValueError(f"{name}: read by {' and '.join(readers)}, each of which would be measured with it; "
                                 "expected a latency table of its own")
        return pools

    def _source(self, tensor: str) -> str:
        """The tensor, seen through operators that do nothing in inference."""
        while tensor in self._idle:
            tensor = self._idle[tensor]
        return tensor

    @cached_property
    def _idle(self) -> dict[str, str]:
        """{node that does nothing in inference: its input}."""
        return {n.name: n.inputs[0] for n in self.nodes if OPERATORS[n.kind].idle}

    def conv_channels(self, widths: Widths) -> dict[str, int]:
        """Channels left in every convolution: {layer name: channels}, 0 for one that is gone.

        Also in hidden linear layers; the classifier, whose outputs are fixed, is not in it. A layer that writes several
        groups has an entry for each: ``NAME:GROUP``.
        """
        alive = {layer.node.name for layer in self.layers(widths)}
        return {key: widths[s.group] * s.repeat if name in alive else 0 for key, name, s in self._counted}

    @cached_property
    def _counted(self) -> list[tuple[str, str, Segment]]:
        """(key, layer, segment) of all that channel files count."""
        found = []
        for node in self.nodes:
            segments = self.tensors[node.name].channels
            classifier = self.tensors[node.name].flat and not any(self.group[s.group].prunable for s in segments)
            if OPERATORS[node.kind].counted and not classifier:
                keys = [node.name] if len(segments) == 1 else [f"{node.name}:{s.group}" for s in segments]
                found += [(key, node.name, s) for key, s in zip(keys, segments)]
        return found

    def widths_of_channels(self, channels: Mapping[str, int]) -> dict[str, int]:
        """The inverse of :meth:`conv_channels`: the widths at which the convolutions have these channels.

        Raises ValueError naming the convolution that is missing, unknown, or does not fit the others.
        """
        known = self.conv_channels(self.full_widths)
        for name in sorted(set(channels) ^ set(known)):
            raise ValueError(f"{name}: {'no convolution of this network' if name in channels else 'missing'}")
        widths, writer = dict(self.full_widths), {}
        widths.update((s.group, 0) for _, _, s in self._counted if self.group[s.group].removable)
        for key, _, segment in self._counted:
            if channels[key] == 0:
                continue  # gone, perhaps with its block; the group's other writers say how wide it is
            width, rest = divmod(channels[key], segment.repeat)
            if rest:
                raise ValueError(f"{key}: {channels[key]} channels, expected a multiple of {segment.repeat}")
            other, known_width = writer.setdefault(segment.group, (key, width))
            if width != known_width:
                raise ValueError(f"{key}: {channels[key]} channels, but {other}, which writes the same stream, has "
                                 f"{channels[other]}")
            widths[segment.group] = width
        try:
            derived = self.conv_channels(widths)
        except ValueError as error:
            raise ValueError(f"no such channels in this network ({error})") from error
        for key, found in derived.items():
            if channels[key] == 0 and channels[key] != found:
                raise ValueError(f"{key}: 0 channels, expected at least 1: this layer cannot be removed alone")
            if channels[key] != found:
                raise ValueError(f"{key}: expected {found} channels, as the layers around it have, found "
                                 f"{channels[key]}")
        return widths

    def weights(self, widths: Widths) -> dict[str, Weight]:
        """Shape and axes of every parameter and statistic by name, in PyTorch's names and layouts."""
        return {name: weight for layer in self.layers(widths)
                for name, weight in parameters_of(layer.node, layer.cin, layer.cout).items()}

    def weight_shapes(self, widths: Widths) -> dict[str, tuple[int, ...]]:
        """Shape of every parameter and statistic by name."""
        return {name: weight.shape for name, weight in self.weights(widths).items()}

    def multiply_adds(self, widths: Widths) -> int:
        """Multiply-accumulate operations (MACs) of the filters for one image; additions and batch norms not counted."""
        return sum(filter_elements(layer.node, layer.cin, layer.cout) * prod(layer.out_sides)
                   for layer in self.layers(widths))

    def parameter_count(self, widths: Widths) -> int:
        """Trainable parameters: weights, biases, and the scale and shift of batch norms."""
        return sum(trainable_elements(layer.node, layer.cin, layer.cout) for layer in self.layers(widths))
