"""A network is data: nodes in execution order, channel groups, and the widths of those groups.

Everything else is derived from ``(network, widths)``: the torch and Keras models, which layers change when a
group shrinks, what a latency table must measure, the latency itself, and the .tflite files.

    network = describe("res", depth=16, width=1.0)       # model/architectures.py
    widths = dict(network.full_widths, Conv_2_1_1=0)     # remove one block
    for layer in network.layers(widths): ...             # what is left of the network, in order

A channel count belongs to a *group*, not to a layer. The inputs and the output of an addition share one group. A
depthwise convolution or a pool keeps its input's group. A convolution or a linear layer writes the group it names.
Width 0 removes a branch: the nodes that write or read the group are dropped. An addition that loses an operand
passes the other one through, without batch norm and ReLU.

Feature maps are square; convolutions pad like TensorFlow's SAME, so a side of n pixels becomes ceil(n / stride).
Runs on Python 3.9 with the standard library alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Optional

KINDS = ("conv", "depthwise", "linear", "add", "pool")

BATCH_NORM = ("weight", "bias", "running_mean", "running_var")  # scale, shift and statistics, PyTorch's names
BN_EPSILON = 1e-5  # in every framework

Widths = Mapping[str, int]


@dataclass(frozen=True)
class Group:
    """Channels that several layers share and that are pruned together. ``removable``: the width may become 0."""

    name: str
    width: int
    prunable: bool = True
    removable: bool = False


@dataclass(frozen=True)
class Input:
    """An input tensor of the network: ``size`` x ``size`` pixels, with the channels of ``group``."""

    name: str
    group: str
    size: int


@dataclass(frozen=True)
class Node:
    """One layer of the unpruned network, with the batch norm and the ReLU that follow it."""

    name: str
    kind: str  # one of KINDS; "pool" is a global average pool
    inputs: tuple[str, ...]  # names of earlier nodes or of inputs
    group: str  # the group of its output channels
    kernel: int = 1
    stride: int = 1
    bn: bool = False
    relu: bool = False
    bias: bool = False
    table: Optional[str] = None  # key of its latency table; None: not measured, or (pool) measured with its reader


@dataclass(frozen=True)
class Layer:
    """A node that is alive at some widths: the live tensors it reads, its channels, and its sides in pixels."""

    node: Node
    inputs: tuple[str, ...]
    cin: int
    cout: int
    in_size: int
    out_size: int


@dataclass(frozen=True)
class Table:
    """What a latency table measures: one operator at every (cin, cout) in 1..rows x 1..columns.

    ``columns`` is 1 where the number of outputs cannot vary. A classifier has a fixed number (``fixed_out``); an
    addition or a depthwise convolution has as many outputs as inputs. The array of a table is indexed
    ``[cin - 1, cout - 1]``, or ``[cin - 1, 0]``.
    """

    key: str
    kind: str
    kernel: int
    stride: int
    size: int  # side of the input feature map, pixels
    bn: bool
    relu: bool
    bias: bool
    pooled: bool  # a global average pool stands before it and is measured with it
    rows: int
    columns: int
    fixed_out: Optional[int]

    @property
    def shape(self) -> tuple[int, int]:
        return (self.rows, self.columns)

    @property
    def operator(self) -> str:
        """What is measured, in words. Two networks can share a table if their words are equal."""
        pool = "average pool, " if self.pooled else ""
        outputs = f" to {self.fixed_out}" if self.fixed_out else ""
        return f"{pool}{self.kernel}x{self.kernel} {self.kind}{outputs}, stride {self.stride}, {self.size}x{self.size}"

    def index(self, cin: int, cout: int) -> tuple[int, int]:
        """The index, in the table's array, of the latency from cin to cout channels."""
        return (cin - 1, cout - 1 if self.columns > 1 else 0)

    def entry(self, number: int) -> tuple[int, int]:
        """(cin, cout) of the entry with this number, counted row by row; cout is the true number of output channels."""
        cin, column = number // self.columns + 1, number % self.columns + 1
        if self.columns > 1:
            return cin, column
        return cin, cin if self.kind in ("add", "depthwise") else (self.fixed_out or 1)

    def entries(self):
        """Yield every (cin, cout) of the table."""
        return map(self.entry, range(self.rows * self.columns))

    def network(self, cin: int, cout: int) -> "Network":
        """The network of this one operator at one width: what is written to a .tflite file and timed."""
        same = self.kind in ("add", "depthwise")
        groups = [Group("in", cin)] + ([] if same else [Group("out", cout)])
        inputs = tuple(Input(f"input_{i}", "in", self.size) for i in range(2 if self.kind == "add" else 1))
        names = tuple(i.name for i in inputs)
        nodes = []
        if self.pooled:
            nodes.append(Node("pool", "pool", names, "in"))
            names = ("pool",)
        nodes.append(Node(self.key, self.kind, names, "in" if same else "out", self.kernel, self.stride,
                          self.bn, self.relu, self.bias))
        return Network({"table": self.key}, inputs, tuple(groups), tuple(nodes))


@dataclass(frozen=True)
class Network:
    """Inputs, groups and nodes. :func:`model.architectures.describe` rebuilds the network from ``arguments``."""

    arguments: dict[str, Any]
    inputs: tuple[Input, ...]
    groups: tuple[Group, ...]
    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        groups = {g.name for g in self.groups}
        seen = {i.name: i.group for i in self.inputs}
        for node in self.nodes:
            read = [seen.get(name) for name in node.inputs]
            if node.kind not in KINDS or node.group not in groups or node.name in seen or None in read or not read:
                raise ValueError(f"node {node.name}: unknown kind, group or input, or a name used twice")
            if node.kind in ("add", "depthwise", "pool") and set(read) != {node.group}:
                raise ValueError(f"node {node.name}: a {node.kind} keeps the group of its inputs {read}, "
                                 f"found {node.group}")
            seen[node.name] = node.group

    @cached_property
    def group(self) -> dict[str, Group]:
        return {g.name: g for g in self.groups}

    @cached_property
    def full_widths(self) -> dict[str, int]:
        """Widths of the unpruned network: {group: channels}."""
        return {g.name: g.width for g in self.groups}

    @cached_property
    def group_of(self) -> dict[str, str]:
        """The group of every tensor: {input or node name: group name}."""
        return {t.name: t.group for t in self.inputs + self.nodes}

    @property
    def output(self) -> str:
        return self.nodes[-1].name

    @property
    def short_name(self) -> str:
        """A name without the image size and the number of classes, such as res-40-2."""
        sizes = (v for k, v in self.arguments.items() if k not in ("img_size", "num_classes"))
        return "-".join(f"{v:g}" if isinstance(v, (int, float)) else str(v) for v in sizes)

    @property
    def title(self) -> str:
        """The arguments in a line, for messages: net res, depth 40, width 2, ..."""
        return ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in self.arguments.items())

    def producers(self, group: str) -> tuple[Node, ...]:
        """Nodes whose filters write the group: they lose outputs when it shrinks."""
        return tuple(n for n in self.nodes if n.group == group and n.kind in ("conv", "linear"))

    def check_widths(self, widths: Widths) -> None:
        """Raise ValueError, naming the group, unless ``widths`` is a valid choice for this network."""
        for name in sorted(set(widths) ^ set(self.full_widths)):
            raise ValueError(f"{name}: {'not a group of this network' if name in widths else 'width missing'}")
        for g in self.groups:
            low = 0 if g.removable else 1 if g.prunable else g.width
            width = widths[g.name]
            if isinstance(width, bool) or not isinstance(width, int) or not low <= width <= g.width:
                raise ValueError(f"{g.name}: expected {low} to {g.width} channels, found {width!r}")

    def layers(self, widths: Widths) -> tuple[Layer, ...]:
        """The nodes that are alive at these widths, in execution order.

        Raises ValueError if the widths are not valid or nothing reaches the output.
        """
        self.check_widths(widths)
        alias: dict[str, Optional[str]] = {i.name: i.name for i in self.inputs}  # what replaces a tensor; None: dropped
        size = {i.name: i.size for i in self.inputs}
        layers = []
        for node in self.nodes:
            inputs = tuple(live for live in map(alias.get, node.inputs) if live is not None)
            complete = len(inputs) == len(node.inputs)
            if widths[node.group] == 0 or not inputs or not (complete or node.kind == "add"):
                alias[node.name] = None
            elif node.kind == "add" and len(inputs) == 1:
                alias[node.name] = inputs[0]
            else:
                in_size = size[inputs[0]]
                out_size = 1 if node.kind in ("pool", "linear") else -(-in_size // node.stride)
                alias[node.name], size[node.name] = node.name, out_size
                layers.append(Layer(node, inputs, widths[self.group_of[inputs[0]]], widths[node.group],
                                    in_size, out_size))
        if alias[self.output] is None:
            raise ValueError(f"at these widths nothing reaches the output {self.output}")
        return tuple(layers)

    @cached_property
    def tables(self) -> dict[str, Table]:
        """The latency tables this network needs, by key. Nodes of one key must be the same operator."""
        pools = {n.name: n for n in self.nodes if n.kind == "pool"}
        full = {layer.node.name: layer for layer in self.layers(self.full_widths)}
        tables: dict[str, Table] = {}
        for layer in full.values():
            node = layer.node
            if node.table is None:
                continue
            pooled = node.inputs[0] in pools
            fixed = not self.group[node.group].prunable
            single = fixed or node.kind in ("add", "depthwise")
            new = Table(node.table, node.kind, node.kernel, node.stride,
                        full[node.inputs[0]].in_size if pooled else layer.in_size, node.bn, node.relu, node.bias,
                        pooled, layer.cin, 1 if single else layer.cout, layer.cout if fixed else None)
            tables[node.table] = _widest(tables.get(node.table, new), new)
        return tables

    def conv_channels(self, widths: Widths) -> dict[str, int]:
        """Channels left in every convolution: {layer name: channels}, 0 for one that is gone."""
        alive = {layer.node.name: layer.cout for layer in self.layers(widths)}
        return {n.name: alive.get(n.name, 0) for n in self.nodes if n.kind in ("conv", "depthwise")}

    def widths_of_channels(self, channels: Mapping[str, int]) -> dict[str, int]:
        """The inverse of :meth:`conv_channels`: the widths at which the convolutions have these channels.

        Raises ValueError naming the convolution that is missing, unknown, or does not fit the others.
        """
        known = self.conv_channels(self.full_widths)
        for name in sorted(set(channels) ^ set(known)):
            raise ValueError(f"{name}: {'no convolution of this network' if name in channels else 'missing'}")
        widths, writer = dict(self.full_widths), {}
        for node in (n for n in self.nodes if n.name in channels):
            if channels[node.name] == 0 and not self.group[node.group].removable:
                continue  # gone with its block; the group's other writers say how wide it is
            other = writer.setdefault(node.group, node.name)
            if channels[node.name] != channels[other]:
                raise ValueError(f"{node.name}: {channels[node.name]} channels, but {other}, which writes the same "
                                 f"stream, has {channels[other]}")
            widths[node.group] = channels[node.name]
        for node in self.nodes:
            if node.name in channels and node.group not in writer:
                raise ValueError(f"{node.name}: 0 channels, expected at least 1: this layer cannot be removed")
        try:
            derived = self.conv_channels(widths)
        except ValueError as error:
            raise ValueError(f"no such channels in this network ({error})") from error
        for name, count in derived.items():
            if channels[name] != count:
                raise ValueError(f"{name}: expected {count} channels, as the layers around it have, found "
                                 f"{channels[name]}")
        return widths

    def weight_shapes(self, widths: Widths) -> dict[str, tuple[int, ...]]:
        """Shape of every parameter and statistic by name, in PyTorch's names and layouts."""
        shapes: dict[str, tuple[int, ...]] = {}
        for layer in self.layers(widths):
            name, kernel = layer.node.name, (layer.node.kernel,) * 2
            if layer.node.kind == "conv":
                shapes[name + ".weight"] = (layer.cout, layer.cin) + kernel
            elif layer.node.kind == "depthwise":
                shapes[name + ".weight"] = (layer.cout, 1) + kernel
            elif layer.node.kind == "linear":
                shapes[name + ".weight"] = (layer.cout, layer.cin)
            if layer.node.bias:
                shapes[name + ".bias"] = (layer.cout,)
            if layer.node.bn:
                shapes.update({f"{name}_bn.{k}": (layer.cout,) for k in BATCH_NORM})
        return shapes

    def multiply_adds(self, widths: Widths) -> int:
        """Multiply-accumulate operations (MACs) of the filters for one image; additions and batch norms not counted."""
        outputs = {layer.node.name: layer.out_size ** 2 for layer in self.layers(widths)}
        return sum(prod(shape) * outputs[name[:-len(".weight")]] for name, shape in self.weight_shapes(widths).items()
                   if len(shape) > 1)

    def parameter_count(self, widths: Widths) -> int:
        """Trainable parameters: weights, biases, and the scale and shift of batch norms."""
        return sum(prod(shape) for name, shape in self.weight_shapes(widths).items() if "running" not in name)


def _widest(a: Table, b: Table) -> Table:
    """One table for two nodes of one key: the same operator, as wide as the wider, with a ReLU if either has one."""
    if (a.kind, a.kernel, a.stride, a.size, a.fixed_out) != (b.kind, b.kernel, b.stride, b.size, b.fixed_out):
        raise ValueError(f"latency table {a.key}: its layers differ in kind, kernel, stride or feature-map size")
    return Table(a.key, a.kind, a.kernel, a.stride, a.size, a.bn or b.bn, a.relu or b.relu, a.bias or b.bias,
                 a.pooled, max(a.rows, b.rows), max(a.columns, b.columns), a.fixed_out)
