"""Tensors and operators as the bytes of a .tflite file, with LiteRT's schema and without TensorFlow."""

from collections.abc import Mapping, Sequence
from typing import Any, Optional

import flatbuffers
import numpy as np

try:
    from ai_edge_litert import schema_py_generated as schema
except ImportError:  # tflite-runtime, on 32-bit boards, has no schema; the package tflite is the same one
    import tflite as schema  # pyright: ignore[reportMissingImports]

ALIGNMENT = 16  # bytes; runtimes read the weights in place
MODEL_VERSION = 3
ENTRY = 256  # bytes of a tensor or an operator without its name, about: a builder that is too small doubles
FILE_IDENTIFIER = b"TFL3"


class Graph:
    """Tensors (name, shape, data or None) and operators in the order in which they are added."""

    def __init__(self, num_images: int):
        self.num_images = num_images
        self.tensors: list[tuple[str, tuple[int, ...], Optional[np.ndarray]]] = []
        self.operators: list[tuple[str, list[int], int, dict[str, Any]]] = []
        self.versions: dict[str, int] = {}  # by kind
        self.index: dict[str, int] = {}

    def tensor(self, name: str, shape: Sequence[int], data: Optional[np.ndarray] = None) -> int:
        self.index[name] = len(self.tensors)
        self.tensors.append((name, tuple(shape), data))
        return self.index[name]

    def constant(self, name: str, data: np.ndarray) -> int:
        return self.tensor(name, data.shape, np.ascontiguousarray(data, np.float32))

    def numbers(self, name: str, data: Any) -> int:
        """A constant of int32: axes, shapes, paddings."""
        return self.tensor(name, np.shape(data), np.asarray(data, np.int32))

    def operator(self, kind: str, inputs: Sequence[int], name: str, shape: Sequence[int], *, version: int = 1,
                 **options: Any) -> int:
        output = self.tensor(name, (self.num_images, *shape))
        self.operators.append((kind, list(inputs), output, options))
        self.versions[kind] = max(version, self.versions.get(kind, 1))
        return output

    def shape(self, x: int) -> tuple[int, ...]:
        """Of a tensor, without the batch."""
        return self.tensors[x][1][1:]

    def reshaped(self, x: int, shape: Sequence[int], name: str) -> int:
        if self.shape(x) == tuple(shape):
            return x
        wanted = self.numbers(name + ".shape", (self.num_images, *shape))
        return self.operator("RESHAPE", [x, wanted], name, shape)

    def turned(self, x: int, axes: Sequence[int], name: str) -> int:
        """The axes in another order; the batch, axis 0, stays."""
        shape = [self.shape(x)[axis - 1] for axis in axes[1:]]
        return self.operator("TRANSPOSE", [x, self.numbers(name + ".axes", axes)], name, shape)


# The schema's table of options of each operator; its generated functions are named after it.
OPTIONS = {
    "CONV_2D": "Conv2DOptions", "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions", "ADD": "AddOptions", "SUB": "SubOptions",
    "MUL": "MulOptions", "AVERAGE_POOL_2D": "Pool2DOptions", "MAX_POOL_2D": "Pool2DOptions", "RELU": "", "RELU6": "",
    "FULLY_CONNECTED": "FullyConnectedOptions", "LOGISTIC": "", "RSQRT": "", "HARD_SWISH": "HardSwishOptions",
    "GELU": "GeluOptions", "LEAKY_RELU": "LeakyReluOptions", "PAD": "PadOptions", "RESHAPE": "ReshapeOptions",
    "TRANSPOSE": "TransposeOptions", "CONCATENATION": "ConcatenationOptions", "STRIDED_SLICE": "StridedSliceOptions",
    "NEG": "", "MEAN": "ReducerOptions", "SQUARED_DIFFERENCE": "SquaredDifferenceOptions"}


def serialise(graph: Graph, inputs: Sequence[str], output: str) -> bytes:
    """The file. inputs, output: names of tensors of the graph. The graph's constants are gone afterwards: memory holds
    each of them once."""
    constants = sum(data.nbytes + 2 * ALIGNMENT for _, _, data in graph.tensors if data is not None)
    described = sum(len(name) + ENTRY for name, _, _ in graph.tensors) + ENTRY * len(graph.operators)
    builder = flatbuffers.Builder(constants + described + 4096)
    codes, written = sorted(graph.versions), [_buffer(builder, None)]
    for number, (name, shape, data) in enumerate(graph.tensors):
        if data is not None:
            written.append(_buffer(builder, data))
            graph.tensors[number] = name, shape, np.empty(0, data.dtype)
    buffers = _offsets(builder, "Model", "Buffers", written)
    subgraph = _subgraph(builder, graph, codes, inputs, output)
    subgraphs = _offsets(builder, "Model", "Subgraphs", [subgraph])
    operator_codes = _offsets(builder, "Model", "OperatorCodes",
                              [_operator_code(builder, code, graph.versions[code]) for code in codes])
    description = builder.CreateString("NetAdapt")
    schema.ModelStart(builder)
    schema.ModelAddVersion(builder, MODEL_VERSION)
    schema.ModelAddOperatorCodes(builder, operator_codes)
    schema.ModelAddSubgraphs(builder, subgraphs)
    schema.ModelAddDescription(builder, description)
    schema.ModelAddBuffers(builder, buffers)
    builder.Finish(schema.ModelEnd(builder), FILE_IDENTIFIER)
    return bytes(memoryview(builder.Bytes)[builder.Head():])


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


def _operator_code(builder, kind: str, version: int) -> int:
    code = getattr(schema.BuiltinOperator, kind)
    schema.OperatorCodeStart(builder)
    schema.OperatorCodeAddDeprecatedBuiltinCode(builder, min(code, 127))  # what runtimes before 2.4 read: one byte
    schema.OperatorCodeAddBuiltinCode(builder, code)
    schema.OperatorCodeAddVersion(builder, version)
    return schema.OperatorCodeEnd(builder)


def _subgraph(builder, graph: Graph, codes: Sequence[str], inputs: Sequence[str], output: str) -> int:
    tensors, buffer = [], 0
    for name, shape, data in graph.tensors:
        buffer += data is not None  # buffer 0 is empty: for computed tensors
        kind = schema.TensorType.FLOAT32 if data is None or data.dtype == np.float32 else schema.TensorType.INT32
        tensors.append(_tensor(builder, name, shape, buffer if data is not None else 0, kind))
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


def _tensor(builder, name: str, shape: Sequence[int], buffer: int, kind: int) -> int:
    sides, called = _integers(builder, shape), builder.CreateString(name)
    schema.TensorStart(builder)
    schema.TensorAddShape(builder, sides)
    schema.TensorAddType(builder, kind)
    schema.TensorAddBuffer(builder, buffer)
    schema.TensorAddName(builder, called)
    schema.TensorAddHasRank(builder, True)
    return schema.TensorEnd(builder)


def _operator(builder, code: int, kind: str, inputs: Sequence[int], output: int, options: Mapping[str, Any]) -> int:
    table, options_offset = OPTIONS[kind], None
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
