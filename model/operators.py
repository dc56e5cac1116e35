"""What each operator is, without any framework: the shape of its output, its weights, and what it needs to live.

A new operator is an entry of ``OPERATORS`` here, and a function in every backend (torch_net.py, keras_net.py,
tflite_net.py), found by its kind. Nothing else asks what kind a node is.

Channels of a tensor are *segments*: whole groups, in order, each unit of a group as ``repeat`` channels in a row. So
every way in which layers hand channels on is a matter of lists:

    conv, linear          writes the segments that the description names
    grouped conv          a conv group is one unit: repeat = inputs per conv group there, outputs per conv group behind
    depthwise             repeat * multiplier
    concat, split         lists joined, and cut between segments
    channel shuffle       of blocks that are alike: the repeat of a unit grows by the number of blocks
    flatten               repeat * height * width
    add, multiply         operands have the same segments

Runs on Python 3.9 with the standard library alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Callable, NamedTuple, Optional, Union

BATCH_NORM = ("weight", "bias", "running_mean", "running_var")  # scale, shift and statistics, PyTorch's names
BN_EPSILON = 1e-5
BN_MOMENTUM = 0.1  # PyTorch's: the part of a running statistic that a batch replaces

NON_NEGATIVE = ("relu", "relu6", "sigmoid", "hard_sigmoid")
ACTIVATIONS = ("", *NON_NEGATIVE, "hard_swish", "silu", "leaky_relu", "gelu")

Widths = Mapping[str, int]
Sides = tuple[int, int]  # height, width
Padding = tuple[int, int, int, int]  # top, bottom, left, right


class Segment(NamedTuple):
    """All units of a group, each ``repeat`` channels in a row."""

    group: str
    repeat: int = 1


Channels = tuple[Segment, ...]


def units(*groups: str) -> Channels:
    """These groups in order, every unit one channel."""
    return tuple(map(Segment, groups))


def count(channels: Channels, widths: Widths) -> int:
    """How many channels these are, at widths of their groups."""
    return sum(widths[s.group] * s.repeat for s in channels)


@dataclass(frozen=True)
class Node:
    """One operator of the unpruned network, with the batch norm and the activation that follow it.

    channels: the segments that it writes, such as ``units("Conv_0")``. An operator without filters of its own may leave
    them out: it has those that its inputs give it.
    """

    name: str
    kind: str  # a key of OPERATORS
    inputs: tuple[str, ...]  # names of earlier nodes or of inputs
    channels: Channels = ()
    kernel: Union[int, Sides] = 1
    stride: Union[int, Sides] = 1
    bn: bool = False
    activation: str = ""  # one of ACTIVATIONS
    bias: bool = False
    table: Optional[str] = None  # key of its latency table; None: not priced, or priced with its reader (pool)
    dilation: Union[int, Sides] = 1
    padding: Optional[Padding] = None  # None: TensorFlow's SAME for a convolution, none for a pool
    grouped: bool = False  # a convolution that keeps the units of its input apart
    multiplier: int = 1  # of a depthwise convolution: outputs per input channel
    ceil_mode: bool = False  # of a pool: a last window may reach beyond the map
    count_include_pad: bool = True  # of an average pool
    size: Union[int, Sides] = 1  # of an adaptive pool's output
    part: tuple[int, int] = (0, 0)  # segments number part[0] up to part[1]: of a split, what it takes; of padding with
    # channels, where its input goes
    blocks: int = 1  # of a channel shuffle
    rate: float = 0.0  # of a dropout
    slope: float = 0.01  # of a leaky ReLU, below 0
    bn_epsilon: float = BN_EPSILON  # of a layer norm, too
    bn_momentum: Optional[float] = BN_MOMENTUM  # None: the mean over all batches
    transparent: bool = False  # an addition left with one operand passes it on without batch norm and activation
    module: Optional[str] = None  # path of its parameters in a state dict; None: its name
    bn_module: Optional[str] = None  # path of its batch norm's parameters; None: module_bn

    @property
    def path(self) -> str:
        return self.module or self.name

    @property
    def bn_path(self) -> str:
        return self.bn_module or f"{self.path}_bn"


@dataclass(frozen=True)
class Tensor:
    """What flows between nodes of the unpruned network: [N, channels, height, width], or [N, channels] where flat."""

    channels: Channels
    sides: Sides
    flat: bool = False


class Weight(NamedTuple):
    """Shape of a parameter or statistic, and which axis counts output and which input channels (None: no axis)."""

    shape: tuple[int, ...]
    out_axis: Optional[int] = 0
    in_axis: Optional[int] = None


@dataclass(frozen=True)
class Operator:
    """What an operator is.

    output: of a node and its input tensors; raises ValueError where they do not fit. weights: of a node, its input and
    its output channels, by name (``weight``, ``bias``).
    """

    output: Callable[[Node, Sequence[Tensor]], Tensor]
    weights: Callable[[Node, int, int], dict[str, Weight]] = lambda node, cin, cout: {}
    operands: Optional[int] = 1  # how many inputs it takes; None: two or more
    needs: str = "all"  # of its inputs, to live: "all"; "any": it goes on with those that live; "parts": the same, but
    # one that has channels must live, or readers would miss them; or the "first"
    writes: bool = False  # channels of its own: its filters lose outputs when their group shrinks
    counted: bool = False  # channel files list it
    mixes: bool = False  # what it computes of a channel depends on all: their groups cannot be pruned
    signs: bool = False  # its output may be negative though no input is
    with_reader: bool = False  # without a latency table of its own, it is measured with the layer that reads it
    idle: bool = False  # nothing in inference
    optional: bool = False  # latency tables of earlier programs lack it; it is free then


def pair(value: Union[int, Sides]) -> Sides:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


# --- shapes ----------------------------------------------------------------------------------------------------

def same_padding(node: Node, sides: Sides) -> Padding:
    """TensorFlow's SAME: n pixels become ceil(n / stride), the odd pixel goes below and to the right."""
    found: list[int] = []
    for side, kernel, stride, dilation in zip(sides, pair(node.kernel), pair(node.stride), pair(node.dilation)):
        pad = max((-(-side // stride) - 1) * stride + dilation * (kernel - 1) + 1 - side, 0)
        found += [pad // 2, pad - pad // 2]
    return found[0], found[1], found[2], found[3]


def convolved(node: Node, sides: Sides) -> Sides:
    """The sides of a convolution's output."""
    if node.padding is None:
        down, right = pair(node.stride)
        return -(-sides[0] // down), -(-sides[1] // right)
    return _windows(node, sides, node.padding)


def _windows(node: Node, sides: Sides, padding: Padding) -> Sides:
    found = []
    for side, kernel, stride, dilation, before, after in zip(
            sides, pair(node.kernel), pair(node.stride), pair(node.dilation), padding[::2], padding[1::2]):
        room = side + before + after - dilation * (kernel - 1) - 1
        windows = (-(-room // stride) if node.ceil_mode else room // stride) + 1
        if node.ceil_mode and (windows - 1) * stride >= side + before:
            windows -= 1  # the last one has to begin inside the map, or in the padding before it
        if room < 0 or windows < 1:
            raise ValueError(f"a window of {kernel} pixels does not fit into {side} padded by {before} and {after}")
        found.append(windows)
    return found[0], found[1]


def _map(tensor: Tensor) -> Tensor:
    if tensor.flat:
        raise ValueError("expected a map, found a vector")
    return tensor


def _conv(node: Node, inputs: Sequence[Tensor]) -> Tensor:
    x = _map(inputs[0])
    if not node.channels:
        raise ValueError("writes no group")
    if node.grouped:
        read, written = ([s.group for s in channels] for channels in (x.channels, node.channels))
        if read != written or any(len({s.repeat for s in channels}) > 1 for channels in (x.channels, node.channels)):
            raise ValueError(f"a grouped convolution keeps the units of its input {list(x.channels)}, each with as "
                             f"many channels, found {list(node.channels)}")
    return Tensor(node.channels, convolved(node, x.sides))


def _depthwise(node: Node, inputs: Sequence[Tensor]) -> Tensor:
    x = _map(inputs[0])
    channels = tuple(Segment(s.group, s.repeat * node.multiplier) for s in x.channels)
    return Tensor(channels, convolved(node, x.sides))


def _linear(node: Node, inputs: Sequence[Tensor]) -> Tensor:
    if not node.channels:
        raise ValueError("writes no group")
    return Tensor(node.channels, inputs[0].sides, inputs[0].flat)


def _same(node: Node, inputs: Sequence[Tensor]) -> Tensor:
    return inputs[0]


def _add(node: Node, inputs: Sequence[Tensor]) -> Tensor:
    if len(set(inputs)) > 1:
        raise ValueError(f"operands differ: {'; '.join(map(_words, inputs))}")
    return inputs[0]


def _multiply(node: Node, inputs: Sequence[Tensor]) -> Tensor:
    x, gate = inputs
    if x.channels != gate.channels or gate.sides not in (x.sides, (1, 1)) or (x.flat and not gate.flat):
        raise ValueError(f"operands differ: {_words(x)}; {_words(gate)}")
    return x


def _concat(node: Node, inputs: Sequence[Tensor]) -> Tensor:
    if len({(x.sides, x.flat) for x in inputs}) > 1:
        raise ValueError(f"operands differ in sides: {'; '.join(map(_words, inputs))}")
    return Tensor(tuple(s for x in inputs for s in x.channels), inputs[0].sides, inputs[0].flat)


def _split(node: Node, inputs: Sequence[Tensor]) -> Tensor:
    (x,), (first, last) = inputs, node.part
    if not 0 <= first < last <= len(x.channels):
        raise ValueError(f"part {first} to {last} of {len(x.channels)} segments")
    return Tensor(x.channels[first:last], x.sides, x.flat)


def _shuffle(node: Node, inputs: Sequence[Tensor]) -> Tensor:
    x = _map(inputs[0])
    size = len(x.channels) // max(node.blocks, 1)
    blocks = {x.channels[i:i + size] for i in range(0, len(x.channels), max(size, 1))}
    if node.blocks < 2 or len(x.channels) % node.blocks or len(blocks) > 1:
        raise ValueError(f"expected {node.blocks} blocks with the same segments, found {list(x.channels)}")
    return Tensor(tuple(Segment(s.group, s.repeat * node.blocks) for s in x.channels[:size]), x.sides)


def _flatten(node: Node, inputs: Sequence[Tensor]) -> Tensor:
    x = _map(inputs[0])
    return Tensor(tuple(Segment(s.group, s.repeat * math.prod(x.sides)) for s in x.channels), (1, 1), flat=True)


def _global_pool(node: Node, inputs: Sequence[Tensor]) -> Tensor:
    return Tensor(_map(inputs[0]).channels, (1, 1), flat=True)


def _pool(node: Node, inputs: Sequence[Tensor]) -> Tensor:
    x, padding = _map(inputs[0]), node.padding or (0, 0, 0, 0)
    kernel = pair(node.kernel)
    if any(2 * pad > side for pad, side in zip(padding, (kernel[0], kernel[0], kernel[1], kernel[1]))):
        raise ValueError(f"padding {padding} is more than half of the window {kernel}")
    if padding[::2] != padding[1::2] and (node.ceil_mode or not node.count_include_pad):
        raise ValueError(f"padding {padding} that differs between two sides goes neither with ceil_mode nor without "
                         "count_include_pad")
    return Tensor(x.channels, _windows(node, x.sides, padding))


def _adaptive(node: Node, inputs: Sequence[Tensor]) -> Tensor:
    x, size = _map(inputs[0]), pair(node.size)
    if any(side % wanted for side, wanted in zip(x.sides, size)):
        raise ValueError(f"a map of {x.sides} does not divide into {size}")
    return Tensor(x.channels, size)


def _pad(node: Node, inputs: Sequence[Tensor]) -> Tensor:
    x, (top, bottom, left, right) = _map(inputs[0]), node.padding or (0, 0, 0, 0)
    return Tensor(x.channels, (x.sides[0] + top + bottom, x.sides[1] + left + right))


def _pad_channels(node: Node, inputs: Sequence[Tensor]) -> Tensor:
    x, (first, last) = _map(inputs[0]), node.part
    if node.channels[first:last] != x.channels or not 0 <= first < last <= len(node.channels):
        raise ValueError(f"expected {list(x.channels)} as segments {first} to {last}, found {list(node.channels)}")
    return Tensor(node.channels, x.sides)


def _words(tensor: Tensor) -> str:
    names = " + ".join(f"{s.group} x{s.repeat}" if s.repeat > 1 else s.group for s in tensor.channels)
    return f"{names} ({'vector' if tensor.flat else f'{tensor.sides[0]}x{tensor.sides[1]}'})"


# --- weights ---------------------------------------------------------------------------------------------------

def _with_bias(node: Node, cout: int, weight: Weight) -> dict[str, Weight]:
    return {"weight": weight, **({"bias": Weight((cout,))} if node.bias else {})}


def _conv_weights(node: Node, cin: int, cout: int) -> dict[str, Weight]:
    if node.grouped:  # a unit's filters read that unit alone
        return _with_bias(node, cout, Weight((cout, _inputs_per_unit(node, cin, cout), *pair(node.kernel))))
    return _with_bias(node, cout, Weight((cout, cin, *pair(node.kernel)), 0, 1))


def _inputs_per_unit(node: Node, cin: int, cout: int) -> int:
    """Of a grouped convolution: its units are cout / repeat, each reads as many of the cin channels."""
    return cin * node.channels[0].repeat // cout


def _depthwise_weights(node: Node, cin: int, cout: int) -> dict[str, Weight]:
    return _with_bias(node, cout, Weight((cout, 1, *pair(node.kernel))))


def _linear_weights(node: Node, cin: int, cout: int) -> dict[str, Weight]:
    return _with_bias(node, cout, Weight((cout, cin), 0, 1))


def _norm_weights(node: Node, cin: int, cout: int) -> dict[str, Weight]:
    return {name: Weight((cout,)) for name in BATCH_NORM}


def _layer_norm_weights(node: Node, cin: int, cout: int) -> dict[str, Weight]:
    return {name: Weight((cout,)) for name in BATCH_NORM[:2]}


def _scale_weights(node: Node, cin: int, cout: int) -> dict[str, Weight]:
    return {"": Weight((cout,))}  # named as the node is


# --- the vocabulary --------------------------------------------------------------------------------------------

OPERATORS: dict[str, Operator] = {
    "conv": Operator(_conv, _conv_weights, writes=True, counted=True, signs=True),
    "depthwise": Operator(_depthwise, _depthwise_weights, counted=True, signs=True),
    "linear": Operator(_linear, _linear_weights, writes=True, counted=True, signs=True),  # of a map: at every pixel
    "batch_norm": Operator(_same, _norm_weights, signs=True),
    "layer_norm": Operator(_same, _layer_norm_weights, signs=True, mixes=True),  # over the channels of every pixel
    "activation": Operator(_same),
    "dropout": Operator(_same, idle=True),
    "scale": Operator(_same, _scale_weights, signs=True),  # a factor per channel
    "add": Operator(_add, operands=None, needs="any", optional=True),
    "multiply": Operator(_multiply, operands=2, needs="first"),  # by a map, or by a gate: one number per channel
    "concat": Operator(_concat, operands=None, needs="parts"),
    "split": Operator(_split),
    "shuffle": Operator(_shuffle),  # of channels: reshaped to [blocks, channels / blocks], transposed
    "flatten": Operator(_flatten),
    "pool": Operator(_global_pool, with_reader=True),  # the mean over all pixels, a vector
    "max_pool": Operator(_pool),  # padded with minus infinity
    "average_pool": Operator(_pool),
    "adaptive_average_pool": Operator(_adaptive),
    "adaptive_max_pool": Operator(_adaptive),
    "pad": Operator(_pad),  # with zeros
    "pad_channels": Operator(_pad_channels),  # with channels of zeros, in segments before and behind its part
}


class Unsupported(ValueError):
    """A backend cannot write an operator; says which, and where."""


def output_of(node: Node, inputs: Sequence[Tensor]) -> Tensor:
    """What the node makes of these tensors. Raises ValueError saying why it cannot."""
    operator = OPERATORS.get(node.kind)
    if operator is None:
        raise ValueError(f"unknown kind {node.kind!r}, expected one of {', '.join(OPERATORS)}")
    if len(inputs) != operator.operands if operator.operands else len(inputs) < 2:
        raise ValueError(f"{len(inputs)} inputs, expected {operator.operands or '2 or more'}")
    if node.activation not in ACTIVATIONS:
        raise ValueError(f"unknown activation {node.activation!r}, expected one of {', '.join(ACTIVATIONS[1:])}")
    found = operator.output(node, inputs)
    if node.channels and node.channels != found.channels:
        raise ValueError(f"keeps the channels of its inputs {list(found.channels)}, found {list(node.channels)}")
    return found


def non_negative(node: Node, inputs_are: bool) -> bool:
    """Whether no output can be negative; inputs_are: whether no input can."""
    if node.activation:
        return node.activation in NON_NEGATIVE
    return inputs_are and not node.bn and not OPERATORS[node.kind].signs


def parameters_of(node: Node, cin: int, cout: int) -> dict[str, Weight]:
    """Every parameter and statistic of the node and of the batch norm behind it, by its name in a state dict."""
    found = {f"{node.path}.{name}" if name else node.path: weight
             for name, weight in OPERATORS[node.kind].weights(node, cin, cout).items()}
    if node.bn:
        found.update({f"{node.bn_path}.{name}": Weight((cout,)) for name in BATCH_NORM})
    return found


def filter_elements(node: Node, cin: int, cout: int) -> int:
    """How many multiplications the filters take for a pixel of the output; cin, cout: arrays of counts, too."""
    return sum(math.prod(w.shape) for w in parameters_of(node, cin, cout).values() if len(w.shape) > 1)


def trainable_elements(node: Node, cin: int, cout: int) -> int:
    """Weights, biases, and the scale and shift of a batch norm; cin, cout: arrays of counts, too."""
    return sum(math.prod(w.shape) for name, w in parameters_of(node, cin, cout).items() if "running" not in name)
