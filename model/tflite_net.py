"""A network at some widths as the bytes of a .tflite file, without TensorFlow.

Writes the operators that TensorFlow's converter writes for the same float32 Keras model (tests check this). A
convolution with its batch norm and ReLU is one CONV_2D. An addition with batch norm is ADD, MUL, ADD with a fused
ReLU. Pool and classifier are AVERAGE_POOL_2D and FULLY_CONNECTED. A convolution without bias gets a bias of zeros.
A latency variant is the network of one operator (``Table.network``): the same code writes variants and whole networks.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Callable, Optional

import flatbuffers
import numpy as np

try:
    from ai_edge_litert import schema_py_generated as schema
except ImportError:  # tflite-runtime, on 32-bit boards, has no schema; the package tflite is the same one
    import tflite as schema  # pyright: ignore[reportMissingImports]

from model.network import Layer, Network, Table, Widths
from model.operators import BATCH_NORM, Node, Unsupported, pair, refuse_beyond_the_basics

Weights = Mapping[str, np.ndarray]

ALIGNMENT = 16  # bytes; runtimes read the weights in place
MODEL_VERSION = 3
FILE_IDENTIFIER = b"TFL3"


def write(network: Network, widths: Widths, weights: Weights, num_images: int = 1) -> bytes:
    """The .tflite file of ``network`` at ``widths``, for batches of ``num_images``.

    Tensors are float32: inputs [num_images, size, size, channels], output [num_images, size, size, channels], or
    [num_images, classes] after a classifier. weights: by name in PyTorch's layouts, as ``network.weight_shapes``
    lists them.
    """
    graph = _Graph(num_images)
    for i in network.inputs:
        graph.tensor(i.name, (num_images, *i.sides, widths[i.group]))
    for layer in network.layers(widths):
        refuse_beyond_the_basics(layer.node, OPERATORS, "a .tflite file")
        OPERATORS[layer.node.kind](graph, layer, [graph.index[n] for n in layer.inputs], weights)
    return _serialise(graph, [i.name for i in network.inputs], network.output)


def variant(table: Table, cin: int, cout: int, num_images: int = 1) -> bytes:
    """The .tflite file of one operator at one width, with random weights."""
    network = table.network(cin, cout)
    return write(network, network.full_widths, random_weights(network, network.full_widths), num_images)


def random_weights(network: Network, widths: Widths) -> dict[str, np.ndarray]:
    """Random weights, the same in every call: He-scaled normal filters, and batch norms that change their input."""
    weights = {}
    for name, shape in network.weight_shapes(widths).items():
        values = np.resize(_normal_values(), shape)
        if len(shape) > 1:
            weights[name] = values * np.float32(np.sqrt(2 / np.prod(shape[1:])))
        elif name.endswith((".weight", "_var")):
            weights[name] = 0.5 + np.abs(values)
        else:
            weights[name] = values * np.float32(0.1)
    return weights


@lru_cache(maxsize=1)
def _normal_values() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(1 << 16, dtype=np.float32)


# --- layers to operators: the graph, a layer, the tensors that it reads, weights --------------------------------

class _Graph:
    """Tensors (name, shape, data or None) and operators in the order in which they are added."""

    def __init__(self, num_images: int):
        self.num_images = num_images
        self.tensors: list[tuple[str, tuple[int, ...], Optional[np.ndarray]]] = []
        self.operators: list[tuple[str, list[int], int, dict[str, int]]] = []
        self.index: dict[str, int] = {}

    def tensor(self, name: str, shape: Sequence[int], data: Optional[np.ndarray] = None) -> int:
        self.index[name] = len(self.tensors)
        self.tensors.append((name, tuple(shape), data))
        return self.index[name]

    def constant(self, name: str, data: np.ndarray) -> int:
        return self.tensor(name, data.shape, np.ascontiguousarray(data, np.float32))

    def operator(self, kind: str, inputs: list[int], name: str, shape: Sequence[int], **options: int) -> int:
        output = self.tensor(name, (self.num_images, *shape))
        self.operators.append((kind, inputs, output, options))
        return output


def _conv(graph: _Graph, layer: Layer, inputs: list[int], weights: Weights) -> None:
    kernel, bias = _folded(layer, weights)  # [cout, cin, k, k]
    _filters(graph, "CONV_2D", layer, inputs, kernel.transpose(0, 2, 3, 1), bias)


def _depthwise(graph: _Graph, layer: Layer, inputs: list[int], weights: Weights) -> None:
    kernel, bias = _folded(layer, weights)  # [cout, 1, k, k]
    _filters(graph, "DEPTHWISE_CONV_2D", layer, inputs, kernel.transpose(1, 2, 3, 0), bias, DepthMultiplier=1)


def _filters(graph: _Graph, kind: str, layer: Layer, inputs: list[int], kernel: np.ndarray, bias: np.ndarray,
             **options: int) -> None:
    name, side, (down, right) = layer.node.name, layer.out_size, pair(layer.node.stride)
    inputs = [*inputs, graph.constant(name + ".weight", kernel), graph.constant(name + ".bias", bias)]
    graph.operator(kind, inputs, name, (side, side, layer.cout), Padding=schema.Padding.SAME, StrideW=right,
                   StrideH=down, FusedActivationFunction=_FUSED[layer.node.activation], **options)


def _linear(graph: _Graph, layer: Layer, inputs: list[int], weights: Weights) -> None:
    node, name = layer.node, layer.node.name
    if layer.in_sides != (1, 1):
        raise Unsupported(f"{name}: a .tflite file cannot be written with a linear layer at every pixel yet")
    kernel = graph.constant(name + ".weight", weights[node.path + ".weight"])
    bias = graph.constant(name + ".bias", weights[node.path + ".bias"]) if node.bias else -1
    graph.operator("FULLY_CONNECTED", [*inputs, kernel, bias], name, (layer.cout,),
                   FusedActivationFunction=_FUSED[node.activation])


def _pool(graph: _Graph, layer: Layer, inputs: list[int], weights: Weights) -> None:
    side = layer.in_size
    graph.operator("AVERAGE_POOL_2D", inputs, layer.node.name, (1, 1, layer.cout), Padding=schema.Padding.VALID,
                   StrideW=side, StrideH=side, FilterWidth=side, FilterHeight=side,
                   FusedActivationFunction=_FUSED[layer.node.activation])


def _add(graph: _Graph, layer: Layer, inputs: list[int], weights: Weights) -> None:
    node, name, shape = layer.node, layer.node.name, (layer.out_size, layer.out_size, layer.cout)
    if len(inputs) == 1:  # its other operand is gone; it is here for its activation
        graph.operator(node.activation.upper(), inputs, name, shape)
        return
    if not node.bn:
        graph.operator("ADD", inputs, name, shape, FusedActivationFunction=_FUSED[node.activation])
        return
    scale, shift = _scale_and_shift(node, weights)
    x = graph.operator("ADD", inputs, name + ".sum", shape, FusedActivationFunction=_FUSED[""])
    x = graph.operator("MUL", [x, graph.constant(name + ".scale", scale)], name + ".scaled", shape,
                       FusedActivationFunction=_FUSED[""])
    graph.operator("ADD", [x, graph.constant(name + ".shift", shift)], name, shape,
                   FusedActivationFunction=_FUSED[node.activation])


def _dropout(graph: _Graph, layer: Layer, inputs: list[int], weights: Weights) -> None:
    graph.index[layer.node.name], = inputs  # nothing in inference


OPERATORS: dict[str, Callable[[_Graph, Layer, list[int], Weights], None]] = {
    "conv": _conv, "depthwise": _depthwise, "linear": _linear, "pool": _pool, "add": _add, "dropout": _dropout}
_FUSED = {"": 0, "relu": schema.ActivationFunctionType.RELU, "relu6": schema.ActivationFunctionType.RELU6}


def _folded(layer: Layer, weights: Weights) -> tuple[np.ndarray, np.ndarray]:
    """Filters, in PyTorch's layout, and biases with the batch norm folded in."""
    path = layer.node.path
    kernel = weights[path + ".weight"]
    bias = weights[path + ".bias"] if layer.node.bias else np.zeros(layer.cout, np.float32)
    if layer.node.bn:
        scale, shift = _scale_and_shift(layer.node, weights)
        kernel, bias = kernel * scale[:, None, None, None], bias * scale + shift
    return kernel, bias


def _scale_and_shift(node: Node, weights: Weights) -> tuple[np.ndarray, np.ndarray]:
    gamma, beta, mean, variance = (weights[f"{node.bn_path}.{k}"] for k in BATCH_NORM)
    scale = gamma / np.sqrt(variance + np.float32(node.bn_epsilon))
    return scale, beta - mean * scale


# --- operators to bytes ----------------------------------------------------------------------------------------

# The schema's table of options of each operator; its generated functions are named after it.
_OPTIONS = {"CONV_2D": "Conv2DOptions", "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions", "ADD": "AddOptions",
            "MUL": "MulOptions", "AVERAGE_POOL_2D": "Pool2DOptions", "FULLY_CONNECTED": "FullyConnectedOptions",
            "RELU": "", "RELU6": ""}


def _serialise(graph: _Graph, inputs: Sequence[str], output: str) -> bytes:
    constants = [data for _, _, data in graph.tensors if data is not None]
    builder = flatbuffers.Builder(sum(c.nbytes + 2 * ALIGNMENT for c in constants) + 4096)
    codes = sorted({kind for kind, _, _, _ in graph.operators})
    buffers = _offsets(builder, "Model", "Buffers", [_buffer(builder, None)] + [_buffer(builder, c) for c in constants])
    subgraph = _subgraph(builder, graph, codes, inputs, output)
    subgraphs = _offsets(builder, "Model", "Subgraphs", [subgraph])
    operator_codes = _offsets(builder, "Model", "OperatorCodes", [_operator_code(builder, c) for c in codes])
    description = builder.CreateString("NetAdapt")
    schema.ModelStart(builder)
    schema.ModelAddVersion(builder, MODEL_VERSION)
    schema.ModelAddOperatorCodes(builder, operator_codes)
    schema.ModelAddSubgraphs(builder, subgraphs)
    schema.ModelAddDescription(builder, description)
    schema.ModelAddBuffers(builder, buffers)
    builder.Finish(schema.ModelEnd(builder), FILE_IDENTIFIER)
    return bytes(builder.Output())


def _offsets(builder, table: str, field: str, offsets: Sequence[int]) -> int:
    """A vector of tables."""
    getattr(schema, f"{table}Start{field}Vector")(builder, len(offsets))
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def _integers(builder, values: Sequence[int]) -> int:
    return builder.CreateNumpyVector(np.asarray(values, np.int32))


def _buffer(builder, data: Optional[np.ndarray]) -> int:
    vector = None
    if data is not None:
        raw = data.tobytes()
        builder.Prep(ALIGNMENT, len(raw))
        vector = builder.CreateByteVector(raw)
    schema.BufferStart(builder)
    if vector is not None:
        schema.BufferAddData(builder, vector)
    return schema.BufferEnd(builder)


def _operator_code(builder, kind: str) -> int:
    code = getattr(schema.BuiltinOperator, kind)
    schema.OperatorCodeStart(builder)
    schema.OperatorCodeAddDeprecatedBuiltinCode(builder, code)  # what runtimes before 2.4 read
    schema.OperatorCodeAddBuiltinCode(builder, code)
    schema.OperatorCodeAddVersion(builder, 1)
    return schema.OperatorCodeEnd(builder)


def _subgraph(builder, graph: _Graph, codes: Sequence[str], inputs: Sequence[str], output: str) -> int:
    tensors, buffer = [], 0
    for name, shape, data in graph.tensors:
        buffer += data is not None  # buffer 0 is empty: for computed tensors
        tensors.append(_tensor(builder, name, shape, buffer if data is not None else 0))
    operators = [_operator(builder, codes.index(kind), kind, reads, writes, options)
                 for kind, reads, writes, options in graph.operators]
    tensors = _offsets(builder, "SubGraph", "Tensors", tensors)
    operators = _offsets(builder, "SubGraph", "Operators", operators)
    reads = _integers(builder, [graph.index[n] for n in inputs])
    writes = _integers(builder, [graph.index[output]])
    schema.SubGraphStart(builder)
    schema.SubGraphAddTensors(builder, tensors)
    schema.SubGraphAddInputs(builder, reads)
    schema.SubGraphAddOutputs(builder, writes)
    schema.SubGraphAddOperators(builder, operators)
    return schema.SubGraphEnd(builder)


def _tensor(builder, name: str, shape: Sequence[int], buffer: int) -> int:
    sides, called = _integers(builder, shape), builder.CreateString(name)
    schema.TensorStart(builder)
    schema.TensorAddShape(builder, sides)
    schema.TensorAddType(builder, schema.TensorType.FLOAT32)
    schema.TensorAddBuffer(builder, buffer)
    schema.TensorAddName(builder, called)
    schema.TensorAddHasRank(builder, True)
    return schema.TensorEnd(builder)


def _operator(builder, code: int, kind: str, inputs: Sequence[int], output: int, options: Mapping[str, int]) -> int:
    table, options_offset = _OPTIONS[kind], None
    if table:
        getattr(schema, table + "Start")(builder)
        for field, value in options.items():
            getattr(schema, f"{table}Add{field}")(builder, value)
        options_offset = getattr(schema, table + "End")(builder)
    reads, writes = _integers(builder, inputs), _integers(builder, [output])
    schema.OperatorStart(builder)
    schema.OperatorAddOpcodeIndex(builder, code)
    schema.OperatorAddInputs(builder, reads)
    schema.OperatorAddOutputs(builder, writes)
    if options_offset is not None:
        schema.OperatorAddBuiltinOptionsType(builder, getattr(schema.BuiltinOptions, table))
        schema.OperatorAddBuiltinOptions(builder, options_offset)
    return schema.OperatorEnd(builder)
