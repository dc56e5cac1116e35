"""What latency tables measure: one operator at every width.

Architectures of this project name the tables of their nodes. In a description that names none, every node that takes
time has the table of its operator. The key says all that the latency depends on but the channels: layers of one
operator share a table.

Runs on Python 3.9 with the standard library alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import gcd, prod
from typing import Callable, Optional

from model.operators import (
    OPERATORS,
    Channels,
    Node,
    Padding,
    Segment,
    Sides,
    Tensor,
    output_of,
    pair,
    parameters_of,
    units,
)

IN, OUT, REST = "in", "out", "rest"  # groups of the network of one operator
FOLDING = ("conv", "depthwise", "linear", "batch_norm")  # kinds that take a batch norm into their weights


@dataclass(frozen=True)
class Table:
    """What a latency table measures: one operator at its widths, as an array of ``rows`` x ``columns``.

    The filters of a convolution read and write as many channels as they like: a row for each number of inputs and a
    column for each number of outputs, unless these cannot vary (``fixed_in``, ``fixed_out``). Other operators have one
    column, and a row for each number of outputs. Where channels come in blocks, as behind a flattened map, a row or a
    column stands for ``step_in`` or ``step_out`` of them. Without such steps it is ``array[cin - 1, cout - 1]``.
    """

    key: str
    node: Node  # the operator: one of its nodes, with a batch norm, an activation and a bias if any of them has it
    reads: tuple[Tensor, ...]  # what it reads, with groups of its own
    pooled: bool  # a global average pool stands before it and is measured with it
    rows: int
    columns: int
    fixed_out: Optional[int] = None
    fixed_in: Optional[int] = None
    step_in: int = 1
    step_out: int = 1

    @property
    def kind(self) -> str:
        return self.node.kind

    @property
    def sides(self) -> Sides:
        """Of the input feature map, pixels."""
        return self.reads[0].sides

    @property
    def optional(self) -> bool:
        """Whether tables of earlier programs lack it, so that it is free without one."""
        return self.node.table is not None and OPERATORS[self.kind].optional

    @property
    def shape(self) -> tuple[int, int]:
        return (self.rows, self.columns)

    @property
    def operator(self) -> str:
        """What is measured, in words. Two networks can share a table if their words are equal."""
        if self.node.table is None:
            return f"{self.key}, in steps of {self.step_in} and {self.step_out}"
        (height, width), (down, right), (rows, columns) = map(pair, (self.node.kernel, self.node.stride, self.sides))
        pool = "average pool, " if self.pooled else ""
        outputs = f" to {self.fixed_out}" if self.fixed_out else ""
        stride = f"{down}" if down == right else f"{down}x{right}"
        return f"{pool}{height}x{width} {self.kind}{outputs}, stride {stride}, {rows}x{columns}"

    @property
    def free(self) -> bool:
        """Whether inputs and outputs vary each on its own: filters, of one group of channels."""
        return _is_free(self.node)

    def index(self, cin: int, cout: int) -> tuple[int, int]:
        """The index, in the table's array, of the latency from cin to cout channels: where these are no multiple of the
        steps, of the nearest."""
        if not self.free:
            return (_nearest(cout, self.step_out, self.rows), 0)
        return (0 if self.fixed_in else _nearest(cin, self.step_in, self.rows),
                _nearest(cout, self.step_out, self.columns) if self.columns > 1 else 0)

    def entry(self, number: int) -> tuple[int, int]:
        """(cin, cout) of the entry with this number, counted row by row; true numbers of channels."""
        row, column = number // self.columns + 1, number % self.columns + 1
        if self.free:
            return self.fixed_in or row * self.step_in, self.fixed_out or column * self.step_out
        if OPERATORS[self.kind].needs in ("any", "parts"):
            return row * self.step_out, row * self.step_out
        return row * sum(s.repeat for s in self.reads[0].channels), row * self.step_out

    @property
    def weights_per_channel(self) -> float:
        """Filter weights for each pair of an input and an output channel; for each output channel, where inputs and
        outputs do not vary each on its own."""
        cin, cout = self.entry(0)
        shapes = [w.shape for w in parameters_of(alone(self), cin, cout).values()]
        return sum(prod(shape) for shape in shapes if len(shape) > 1) / ((cin if self.free else 1) * cout)

    def entries(self) -> Iterator[tuple[int, int]]:
        """Yield every (cin, cout) of the table."""
        return map(self.entry, range(self.rows * self.columns))


def _is_free(node: Node) -> bool:
    return OPERATORS[node.kind].writes and not node.grouped


def _nearest(channels: int, step: int, count: int) -> int:
    return min(max((2 * channels + step) // (2 * step), 1), count) - 1


def takes_time(node: Node, read: Tensor) -> bool:
    """Whether the node is an operator at all: not one that does nothing in inference, or only drops sides of 1."""
    return not OPERATORS[node.kind].idle and not (node.kind == "flatten" and read.sides == (1, 1))


def table_of(node: Node, inputs: Sequence[Tensor], channels: Channels, widths: Callable[[Segment], Optional[int]], *,
             cin: int, cout: int, pooled: bool) -> Table:
    """The table of a node alone. inputs, channels: what it reads and writes; widths: of a segment that cannot vary,
    else None; cin, cout: of the unpruned network. A node that names no table gets the key of its operator."""
    fixed_out = cout if OPERATORS[node.kind].writes and all(widths(s) for s in channels) else None
    reads = _reads(node, inputs)
    if node.table is not None:
        free = _is_free(node) and not fixed_out
        return Table(node.table, node, reads, pooled, cin, cout if free else 1, fixed_out)
    if _is_free(node):
        fixed_in = cin if all(widths(s) for s in inputs[0].channels) else None
        ins, outs = _step(inputs[0].channels, widths), _step(channels, widths)
        found = Table("", node, reads, pooled, 1 if fixed_in else cin // ins, 1 if fixed_out else cout // outs,
                      fixed_out, fixed_in, 1 if fixed_in else ins, 1 if fixed_out else outs)
    else:
        out = sum(s.repeat for s in output_of(_alone(node), reads).channels)
        found = Table("", node, reads, pooled, max(cout // out, 1), 1, step_out=out)
    return replace(found, key=_key(found))


def _step(channels: Channels, widths: Callable[[Segment], Optional[int]]) -> int:
    """Channels that come and go together."""
    return gcd(*[s.repeat * (widths(s) or 1) for s in channels])


def _reads(node: Node, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """What the operator reads alone: as much structure as it needs."""
    if node.kind == "concat":
        return tuple(Tensor(units(f"{IN}_{n}"), x.sides) for n, x in enumerate(inputs))
    first = units(IN)
    if node.kind == "shuffle":
        first *= node.blocks
    elif node.kind == "split":
        first = units(IN, REST)
    elif node.grouped:
        first = (Segment(IN, inputs[0].channels[0].repeat),)
    return tuple(Tensor(first, x.sides) for x in inputs)


def _writes(node: Node) -> Channels:
    if node.grouped:
        return (Segment(IN, node.channels[0].repeat),)
    if node.kind == "pad_channels":
        return units(IN, REST)
    return units(OUT) if OPERATORS[node.kind].writes else ()


def alone(table: Table) -> Node:
    """The operator as the one node of a network."""
    return replace(_alone(table.node), name=table.key, table=None)


def _alone(node: Node) -> Node:
    part = (0, 1) if node.kind in ("split", "pad_channels") else node.part
    return replace(node, channels=_writes(node), part=part)


def widths_alone(table: Table, cin: int, cout: int) -> dict[str, int]:
    """Widths of the groups of :func:`alone`."""
    if table.free:
        return {IN: cin, OUT: cout}
    names = [s.group for x in table.reads for s in x.channels] + [s.group for s in _writes(table.node)]
    return dict.fromkeys(names, cout // table.step_out)


def _key(table: Table) -> str:
    """All that the latency of an operator depends on but its channels: conv_3x3_s2_p1_from3_at_224x224_relu6."""
    node, kernel, stride = table.node, pair(table.node.kernel), pair(table.node.stride)
    gate = node.kind == "multiply" and table.reads[1].sides != table.reads[0].sides
    words = [
        node.kind, f"{len(table.reads)}" if OPERATORS[node.kind].operands is None else "", "by_gate" if gate else "",
        _pair("", kernel) if node.kind in ("conv", "depthwise", "max_pool", "average_pool") else "",
        _pair("s", stride) if stride != (1, 1) else "",
        _pair("d", pair(node.dilation)) if pair(node.dilation) != (1, 1) else "", _padding(node),
        f"groups_{table.reads[0].channels[0].repeat}to{node.channels[0].repeat}" if node.grouped else "",
        f"times{node.multiplier}" if node.multiplier > 1 else "", f"blocks{node.blocks}" if node.blocks > 1 else "",
        _pair("to", pair(node.size)) if node.kind.startswith("adaptive") else "",
        "ceil" if node.ceil_mode else "", "" if node.count_include_pad else "without_padding",
        f"from{table.fixed_in}" if table.fixed_in else "", f"to{table.fixed_out}" if table.fixed_out else "",
        f"at_{table.sides[0]}x{table.sides[1]}",
        "bn" if node.bn and node.kind not in FOLDING else "", node.activation]
    return "_".join(filter(None, words))


def _pair(letter: str, two: Sides) -> str:
    return f"{letter}{two[0]}" if letter and two[0] == two[1] else f"{letter}{two[0]}x{two[1]}"


def _padding(node: Node) -> str:
    padding: Optional[Padding] = node.padding
    if padding is None:
        return "same" if node.kind in ("conv", "depthwise") else ""
    if len(set(padding)) == 1:
        return f"p{padding[0]}" if padding[0] else ""
    return "p" + ".".join(map(str, padding))


def widest(a: Table, b: Table) -> Table:
    """One table for two nodes of one key: the same operator, as wide as the wider, with what either has behind it.

    Raises ValueError where a description names one table for two operators.
    """
    one, two = (replace(t.node, name="", inputs=t.node.inputs[:0], channels=(), bn=False, activation="", bias=False,
                        transparent=False, part=(0, 0), module=None, bn_module=None, bn_epsilon=0.0, bn_momentum=None,
                        slope=0.0) for t in (a, b))
    if (one, a.reads, a.fixed_out) != (two, b.reads, b.fixed_out):
        raise ValueError(f"latency table {a.key}: its layers differ in kind, kernel, stride or feature-map size")
    node = replace(a.node, bn=a.node.bn or b.node.bn, activation=a.node.activation or b.node.activation,
                   bias=a.node.bias or b.node.bias)
    ins, outs = gcd(a.step_in, b.step_in), gcd(a.step_out, b.step_out)
    if not a.free:
        outs = a.step_out
    return replace(a, node=node, step_in=ins, step_out=outs,
                   rows=max(t.rows * t.step_in // ins for t in (a, b)) if a.free else max(a.rows, b.rows),
                   columns=max(t.columns * t.step_out // outs for t in (a, b)) if a.free else 1)
