"""A network at some widths as the bytes of a .tflite file, without TensorFlow.

It writes the operators that TensorFlow's converter writes for the same float32 Keras model (tests check this), but for
maps of one pixel, which either may reshape on the way. A convolution with its batch norm and ReLU is one CONV_2D. An
addition with batch norm is ADD, MUL, ADD with a fused ReLU. Pool and classifier are AVERAGE_POOL_2D and
FULLY_CONNECTED. A convolution without bias gets a bias of zeros. A latency variant is the network of one operator
(variant.py): the same code writes variants and whole networks.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Callable

import numpy as np

from model.network import Layer, Network, Widths
from model.operators import BATCH_NORM, Node, Padding, Sides, Unsupported, count, pair, same_padding
from model.tflite_file import Graph, schema, serialise
from model.timed import Table
from model.variant import network_of
from model.windows import never_negative, reach, share_seen

Weights = Mapping[str, np.ndarray]


def write(network: Network, widths: Widths, weights: Weights, num_images: int = 1) -> bytes:
    """The .tflite file of ``network`` at ``widths``, for batches of ``num_images``.

    Tensors are float32: inputs [num_images, size, size, channels], output [num_images, size, size, channels], or
    [num_images, classes] after a classifier. weights: by name in PyTorch's layouts, as ``network.weight_shapes``
    lists them.
    """
    graph = _Graph(network, widths, num_images)
    for i in network.inputs:
        graph.tensor(i.name, (num_images, *i.sides, count(i.tensor.channels, widths)))
    for layer in network.layers(widths):
        if layer.node.kind not in TAKES_ANY_RANK:
            for name in layer.inputs:
                _give_its_rank(graph, name)
        WRITE[layer.node.kind](graph, layer, [graph.index[name] for name in layer.inputs], weights)
    return serialise(graph, [i.name for i in network.inputs], network.output)


def variant(table: Table, cin: int, cout: int, num_images: int = 1) -> bytes:
    """The .tflite file of one operator at one width, with random weights."""
    network = network_of(table, cin, cout)
    return write(network, network.full_widths, random_weights(network, network.full_widths), num_images)


def random_weights(network: Network, widths: Widths) -> Weights:
    """Random weights, the same in every call: He-scaled normal filters, and batch norms that change their input. Each
    array is made when it is read, so that those of a large network are never in memory together."""
    return _RandomWeights(network.weight_shapes(widths))


class _RandomWeights(Mapping[str, np.ndarray]):
    def __init__(self, shapes: Mapping[str, tuple[int, ...]]):
        self.shapes = shapes

    def __getitem__(self, name: str) -> np.ndarray:
        shape = self.shapes[name]
        values = np.resize(_normal_values(), shape)
        if len(shape) > 1:
            return values * np.float32(np.sqrt(2 / np.prod(shape[1:])))
        return 0.5 + np.abs(values) if name.endswith((".weight", "_var")) else values * np.float32(0.1)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


@lru_cache(maxsize=1)
def _normal_values() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(1 << 16, dtype=np.float32)


# --- layers to operators: the graph, a layer, the tensors that it reads, weights --------------------------------

class _Graph(Graph):
    """The file of a network at some widths."""

    def __init__(self, network: Network, widths: Widths, num_images: int):
        super().__init__(num_images)
        self.network, self.widths, self.positive = network, widths, never_negative(network.layers(widths))


def _give_its_rank(graph: _Graph, name: str) -> None:
    """A vector that a pool left as a map of one pixel becomes one, and a map that a linear layer left as a vector."""
    tensor, x = graph.network.tensors[name], graph.index[name]
    if len(graph.shape(x)) != (1 if tensor.flat else 3):
        channels = graph.shape(x)[-1]
        graph.index[name] = graph.reshaped(x, (channels,) if tensor.flat else (1, 1, channels), name + ".reshaped")


def _write(graph: _Graph, layer: Layer, kind: str, inputs: Sequence[int], weights: Weights,
           shape: Sequence[int], *, folded: bool = False, **options: Any) -> None:
    """An operator, and the batch norm and the activation behind it, unless they are a part of it.

    folded: the batch norm is in its weights.
    """
    node, name = layer.node, layer.node.name
    normed = node.bn and not folded
    fused = node.activation in _FUSED and (normed or kind in FUSING)
    raised = folded and node.activation == RAISED

    def put(kind: str, reads: Sequence[int], suffix: str, **more: Any) -> int:
        if kind in FUSING:
            own = node.activation if fused and not suffix else "relu6" if raised else ""
            more["FusedActivationFunction"] = _FUSED[own]
        return graph.operator(kind, reads, name + suffix, shape, **more)

    last = "" if fused or not node.activation else ".linear"
    x = put(kind, inputs, ".sum" if normed else last, **options)
    if normed:
        scale, shift = _scale_and_shift(node.bn_path, node, weights)
        x = put("MUL", [x, graph.constant(name + ".scale", scale)], ".scaled")
        x = put("ADD", [x, graph.constant(name + ".shift", shift)], last)
    if last:
        _activate(graph, node, x, raised=raised)


def _pass(graph: _Graph, layer: Layer, x: int, weights: Weights) -> None:
    """What an operator that does nothing leaves: the batch norm and the activation behind it."""
    node = layer.node
    if node.bn:
        scale, shift = _scale_and_shift(node.bn_path, node, weights)
        _affine(graph, replace(layer, node=replace(node, bn=False)), x, scale, shift, weights)
    elif node.activation:
        _activate(graph, node, x)
    else:
        graph.index[node.name] = x


def _affine(graph: _Graph, layer: Layer, x: int, scale: np.ndarray, shift: np.ndarray, weights: Weights) -> None:
    name, shape = layer.node.name, graph.shape(x)
    x = graph.operator("MUL", [x, graph.constant(name + ".scale", scale)], name + ".scaled", shape,
                       FusedActivationFunction=_FUSED[""])
    _write(graph, layer, "ADD", [x, graph.constant(name + ".shift", shift)], weights, shape)


def _activate(graph: _Graph, node: Node, x: int, *, raised: bool = False) -> None:
    """An activation that no operator can fuse. raised: a hard sigmoid's part that filters can fuse is done."""
    name, shape, kind = node.name, graph.shape(x), node.activation
    if kind == "silu":
        gate = graph.operator("LOGISTIC", [x], name + ".gate", shape)
        graph.operator("MUL", [x, gate], name, shape, FusedActivationFunction=_FUSED[""])
    elif kind == RAISED:
        if not raised:
            x = graph.operator("ADD", [x, graph.constant(name + ".three", np.array(3.0))], name + ".raised", shape,
                               FusedActivationFunction=_FUSED["relu6"])
        graph.operator("MUL", [x, graph.constant(name + ".sixth", np.array(1 / 6))], name, shape,
                       FusedActivationFunction=_FUSED[""])
    elif kind == "leaky_relu":
        graph.operator("LEAKY_RELU", [x], name, shape, Alpha=node.slope)
    elif kind == "gelu":
        graph.operator("GELU", [x], name, shape, Approximate=False)
    else:
        graph.operator({"sigmoid": "LOGISTIC"}.get(kind, kind.upper()), [x], name, shape)


def _conv(graph: _Graph, layer: Layer, inputs: list[int], weights: Weights) -> None:
    kernel, bias = _folded(layer, weights)  # [cout, cin of a group, height, width]
    _filters(graph, "CONV_2D", layer, inputs, kernel.transpose(0, 2, 3, 1), bias, weights,
             version=GROUPED_VERSION if kernel.shape[1] < layer.cin else 1)


def _depthwise(graph: _Graph, layer: Layer, inputs: list[int], weights: Weights) -> None:
    kernel, bias = _folded(layer, weights)  # [cout, 1, height, width]
    if len(set(pair(layer.node.stride))) > 1:  # XNNPACK and the reference kernels want one stride for both sides
        _filters(graph, "CONV_2D", layer, inputs, kernel.transpose(0, 2, 3, 1), bias, weights)
        return
    _filters(graph, "DEPTHWISE_CONV_2D", layer, inputs, kernel.transpose(1, 2, 3, 0), bias, weights,
             DepthMultiplier=layer.node.multiplier)


def _filters(graph: _Graph, kind: str, layer: Layer, inputs: list[int], kernel: np.ndarray, bias: np.ndarray,
             weights: Weights, **options: Any) -> None:
    node, name = layer.node, layer.node.name
    (down, right), (high, wide) = pair(node.stride), pair(node.dilation)
    same = same_padding(node, layer.in_sides)
    padding = schema.Padding.SAME
    if node.padding not in (None, same):
        padding, inputs = schema.Padding.VALID, [_framed(graph, node, inputs[0], node.padding or same)]
    if (high, wide) != (1, 1):
        options.update(DilationHFactor=high, DilationWFactor=wide)
    inputs = [*inputs, graph.constant(name + ".weight", kernel), graph.constant(name + ".bias", bias)]
    _write(graph, layer, kind, inputs, weights, (*layer.out_sides, layer.cout), folded=True, Padding=padding,
           StrideW=right, StrideH=down, **options)


def _framed(graph: _Graph, node: Node, x: int, padding: Padding) -> int:
    """A map with zeros around it."""
    if not any(padding):
        return x
    (top, bottom, left, right), name, (height, width, channels) = padding, node.name, graph.shape(x)
    around = graph.numbers(name + ".around", ((0, 0), (top, bottom), (left, right), (0, 0)))
    return graph.operator("PAD", [x, around], name + ".padded", (height + top + bottom, width + left + right, channels))


def _linear(graph: _Graph, layer: Layer, inputs: list[int], weights: Weights) -> None:
    """Of a vector, or of every pixel of a map."""
    node, (kernel, bias) = layer.node, _folded(layer, weights)
    filters = graph.constant(node.name + ".weight", kernel)
    needed = node.bias or node.bn or node.activation == RAISED
    inputs = [*inputs, filters, graph.constant(node.name + ".bias", bias) if needed else -1]
    if layer.in_sides == (1, 1):
        _write(graph, layer, "FULLY_CONNECTED", inputs, weights, (layer.cout,), folded=True)
    else:
        _write(graph, layer, "FULLY_CONNECTED", inputs, weights, (*layer.out_sides, layer.cout), folded=True,
               version=OF_MAPS_VERSION, KeepNumDims=True)


def _pool(graph: _Graph, layer: Layer, inputs: list[int], weights: Weights) -> None:
    _windows(graph, layer, "AVERAGE_POOL_2D", inputs, weights, layer.in_sides, layer.in_sides, (1, 1))


def _windows(graph: _Graph, layer: Layer, kind: str, inputs: Sequence[int], weights: Weights, window: Sides,
             stride: Sides, sides: Sides, padding: int = schema.Padding.VALID) -> None:
    _write(graph, layer, kind, inputs, weights, (*sides, layer.cout), Padding=padding, StrideW=stride[1],
           StrideH=stride[0], FilterWidth=window[1], FilterHeight=window[0])


def _adaptive(kind: str) -> "Write":
    def made(graph: _Graph, layer: Layer, inputs: list[int], weights: Weights) -> None:
        (height, width), (down, right) = layer.in_sides, layer.out_sides
        window = (height // down, width // right)
        _windows(graph, layer, kind, inputs, weights, window, window, layer.out_sides)
    return made


def _max_pool(graph: _Graph, layer: Layer, inputs: list[int], weights: Weights) -> None:
    node, around = layer.node, reach(layer.node, layer.in_sides, layer.out_sides)
    if max(pair(node.dilation)) > 1:
        raise Unsupported(f"{node.name}: a .tflite file has no max pool with dilation {node.dilation}")
    padding = schema.Padding.SAME if around == same_padding(node, layer.in_sides) else schema.Padding.VALID
    if padding == schema.Padding.VALID:
        inputs = [_around_a_max_pool(graph, layer, inputs[0], around,
                                     positive=graph.positive.issuperset(layer.inputs))]
    _windows(graph, layer, "MAX_POOL_2D", inputs, weights, pair(node.kernel), pair(node.stride), layer.out_sides,
             padding)


def _around_a_max_pool(graph: _Graph, layer: Layer, x: int, around: Padding, *, positive: bool) -> int:
    """As keras_net.py does: zeros where nothing is negative, else the pixels of the edge again."""
    if positive:
        return _framed(graph, layer.node, x, around)
    for axis, before, after in ((1, *around[:2]), (2, *around[2:])):
        name = f"{layer.node.name}.axis_{axis}"
        end = graph.tensors[x][1][axis]
        first = [_pixels(graph, x, axis, 0, name + ".first")] * before if before else []
        last = [_pixels(graph, x, axis, end - 1, name + ".last")] * after if after else []
        parts = [*first, x, *last]
        if len(parts) > 1:
            shape = list(graph.shape(x))
            shape[axis - 1] += before + after
            x = graph.operator("CONCATENATION", parts, name, shape, Axis=axis, FusedActivationFunction=_FUSED[""])
    return x


def _pixels(graph: _Graph, x: int, axis: int, at: int, name: str) -> int:
    """A row or a column of a map, [N, 1, width, channels] or [N, height, 1, channels]."""
    begin, end = [0, 0, 0, 0], list(graph.tensors[x][1])
    begin[axis], end[axis] = at, at + 1
    return _sliced(graph, x, begin, end, axis, name, from_first=not at)


def _sliced(graph: _Graph, x: int, begin: Sequence[int], end: Sequence[int], axis: int, name: str, *,
            from_first: bool = False) -> int:
    """A part of one axis, of the whole others. from_first: as the converter writes a part that names no begin."""
    reads = [x, graph.numbers(name + ".begin", begin), graph.numbers(name + ".end", end),
             graph.numbers(name + ".strides", [1] * len(begin))]
    others = 2 ** len(begin) - 1 - 2 ** axis
    shape = [e - b for b, e in zip(begin, end)][1:]
    return graph.operator("STRIDED_SLICE", reads, name, shape, BeginMask=others + 2 ** axis * from_first,
                          EndMask=others)


def _average_pool(graph: _Graph, layer: Layer, inputs: list[int], weights: Weights) -> None:
    node, around = layer.node, reach(layer.node, layer.in_sides, layer.out_sides)
    x, seen = _framed(graph, node, inputs[0], around), share_seen(node, layer.in_sides, layer.out_sides)
    if (seen == 1).all():
        _windows(graph, layer, "AVERAGE_POOL_2D", [x], weights, pair(node.kernel), pair(node.stride), layer.out_sides)
        return
    bare = replace(layer, node=replace(node, name=node.name + ".all", activation="", bn=False))
    _windows(graph, bare, "AVERAGE_POOL_2D", [x], weights, pair(node.kernel), pair(node.stride), layer.out_sides)
    factor = graph.constant(node.name + ".factor", (1 / seen)[None, :, :, None])
    _write(graph, layer, "MUL", [graph.index[bare.node.name], factor], weights, (*layer.out_sides, layer.cout))


def _add(graph: _Graph, layer: Layer, inputs: list[int], weights: Weights) -> None:
    if len(inputs) == 1:  # its other operands are gone; it is here for its activation
        _pass(graph, layer, inputs[0], weights)
        return
    first, *others, last = inputs
    for number, other in enumerate(others):
        first = graph.operator("ADD", [first, other], f"{layer.node.name}.{number}", graph.shape(first),
                               FusedActivationFunction=_FUSED[""])
    _write(graph, layer, "ADD", [first, last], weights, graph.shape(first))


def _multiply(graph: _Graph, layer: Layer, inputs: list[int], weights: Weights) -> None:
    if len(inputs) == 1:  # without its gate
        _pass(graph, layer, inputs[0], weights)
        return
    x, gate = inputs
    if len(graph.shape(gate)) < len(graph.shape(x)):
        gate = graph.reshaped(gate, (1, 1, layer.cout), layer.node.name + ".gate")
    _write(graph, layer, "MUL", [x, gate], weights, graph.shape(x))


def _concat(graph: _Graph, layer: Layer, inputs: list[int], weights: Weights) -> None:
    if len(inputs) == 1:
        _pass(graph, layer, inputs[0], weights)
        return
    shape = (*graph.shape(inputs[0])[:-1], layer.cout)
    _write(graph, layer, "CONCATENATION", inputs, weights, shape, Axis=-1)


def _split(graph: _Graph, layer: Layer, inputs: list[int], weights: Weights) -> None:
    node, (x,) = layer.node, inputs
    before = count(graph.network.tensors[node.inputs[0]].channels[:node.part[0]], graph.widths)
    whole = graph.tensors[x][1]
    begin, end = [*[0] * (len(whole) - 1), before], [*whole[:-1], before + layer.cout]
    _pass(graph, layer, _sliced(graph, x, begin, end, len(whole) - 1, node.name + ".part"), weights)


def _shuffle(graph: _Graph, layer: Layer, inputs: list[int], weights: Weights) -> None:
    name, (height, width), blocks = layer.node.name, layer.in_sides, layer.node.blocks
    x = graph.reshaped(inputs[0], (height * width, blocks, layer.cout // blocks), name + ".blocks")
    x = graph.turned(x, (0, 1, 3, 2), name + ".turned")
    _pass(graph, layer, graph.reshaped(x, (height, width, layer.cout), name + ".joined"), weights)


def _flatten(graph: _Graph, layer: Layer, inputs: list[int], weights: Weights) -> None:
    """Channel by channel, as torch does."""
    name, (x,) = layer.node.name, inputs
    if layer.in_sides != (1, 1):
        x = graph.turned(x, (0, 3, 1, 2), name + ".turned")
    _pass(graph, layer, graph.reshaped(x, (layer.cout,), name + ".vector"), weights)


def _pad(graph: _Graph, layer: Layer, inputs: list[int], weights: Weights) -> None:
    _pass(graph, layer, _framed(graph, layer.node, inputs[0], layer.node.padding or (0, 0, 0, 0)), weights)


def _pad_channels(graph: _Graph, layer: Layer, inputs: list[int], weights: Weights) -> None:
    node, (x,), widths = layer.node, inputs, graph.widths
    around = count(node.channels[:node.part[0]], widths), count(node.channels[node.part[1]:], widths)
    rank = len(graph.tensors[x][1])
    sides = graph.numbers(node.name + ".around", (*[(0, 0)] * (rank - 1), around))
    _write(graph, layer, "PAD", [x, sides], weights, (*graph.shape(x)[:-1], layer.cout))


def _batch_norm(graph: _Graph, layer: Layer, inputs: list[int], weights: Weights) -> None:
    scale, shift = _scale_and_shift(layer.node.path, layer.node, weights)
    _affine(graph, layer, inputs[0], scale, shift, weights)


def _layer_norm(graph: _Graph, layer: Layer, inputs: list[int], weights: Weights) -> None:
    (x,), node, name = inputs, layer.node, layer.node.name
    shape = graph.shape(x)
    one, none = (*shape[:-1], 1), {"FusedActivationFunction": _FUSED[""]}
    axis = graph.numbers(name + ".axis", (len(shape),))
    mean = graph.operator("MEAN", [x, axis], name + ".mean", one, KeepDims=True)
    less = graph.operator("NEG", [mean], name + ".negative", one)
    squares = graph.operator("SQUARED_DIFFERENCE", [x, mean], name + ".squares", shape)
    variance = graph.operator("MEAN", [squares, axis], name + ".variance", one, KeepDims=True)
    epsilon = graph.constant(name + ".epsilon", np.array(node.bn_epsilon))
    scale = graph.operator("RSQRT", [graph.operator("ADD", [variance, epsilon], name + ".positive", one, **none)],
                           name + ".rsqrt", one)
    gamma, beta = (graph.constant(name + "." + key, weights[f"{node.path}.{key}"].reshape(*[1] * len(shape), -1))
                   for key in ("weight", "bias"))
    scale = graph.operator("MUL", [scale, gamma], name + ".scale", shape, **none)
    shift = graph.operator("ADD", [graph.operator("MUL", [less, scale], name + ".less", shape, **none), beta],
                           name + ".shift", shape, **none)
    x = graph.operator("MUL", [x, scale], name + ".scaled", shape, **none)
    _write(graph, layer, "ADD", [x, shift], weights, shape)


def _scale(graph: _Graph, layer: Layer, inputs: list[int], weights: Weights) -> None:
    factor = graph.constant(layer.node.name + ".factor", weights[layer.node.path])
    _write(graph, layer, "MUL", [*inputs, factor], weights, graph.shape(inputs[0]))


def _as_it_is(graph: _Graph, layer: Layer, inputs: list[int], weights: Weights) -> None:
    _pass(graph, layer, inputs[0], weights)  # a dropout is idle in inference, and an activation follows


TAKES_ANY_RANK = ("linear", "dropout")  # vectors as a pool leaves them, maps of one pixel
Write = Callable[[_Graph, Layer, list[int], Weights], None]
WRITE: dict[str, Write] = {
    "conv": _conv, "depthwise": _depthwise, "linear": _linear, "pool": _pool, "add": _add, "multiply": _multiply,
    "concat": _concat, "split": _split, "shuffle": _shuffle, "flatten": _flatten, "pad": _pad,
    "pad_channels": _pad_channels, "max_pool": _max_pool, "average_pool": _average_pool,
    "adaptive_average_pool": _adaptive("AVERAGE_POOL_2D"), "adaptive_max_pool": _adaptive("MAX_POOL_2D"),
    "batch_norm": _batch_norm, "layer_norm": _layer_norm, "scale": _scale, "activation": _as_it_is,
    "dropout": _as_it_is}
GROUPED_VERSION = 6  # of CONV_2D: runtimes of lower versions know no groups
OF_MAPS_VERSION = 5  # of FULLY_CONNECTED that keeps the sides of a map
RAISED = "hard_sigmoid"  # relu6(x + 3) / 6: filters add 3 in their biases
_FUSED = {"": 0, "relu": schema.ActivationFunctionType.RELU, "relu6": schema.ActivationFunctionType.RELU6}
FUSING = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "SUB", "MUL", "AVERAGE_POOL_2D", "MAX_POOL_2D",
          "CONCATENATION")  # operators with an activation of their own


def _folded(layer: Layer, weights: Weights) -> tuple[np.ndarray, np.ndarray]:
    """Filters, in PyTorch's layout, and biases with the batch norm folded in, and what a hard sigmoid adds."""
    path = layer.node.path
    kernel = weights[path + ".weight"]
    bias = weights[path + ".bias"] if layer.node.bias else np.zeros(layer.cout, np.float32)
    if layer.node.bn:
        scale, shift = _scale_and_shift(layer.node.bn_path, layer.node, weights)
        kernel, bias = kernel * scale.reshape(-1, *[1] * (kernel.ndim - 1)), bias * scale + shift
    return kernel, bias + np.float32(3) if layer.node.activation == RAISED else bias


def _scale_and_shift(path: str, node: Node, weights: Weights) -> tuple[np.ndarray, np.ndarray]:
    """What the batch norm at ``path`` does."""
    gamma, beta, mean, variance = (weights[f"{path}.{k}"] for k in BATCH_NORM)
    scale = gamma / np.sqrt(variance + np.float32(node.bn_epsilon))
    return scale, beta - mean * scale
