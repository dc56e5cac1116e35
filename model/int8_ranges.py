"""Ranges of values in an int8 .tflite file that runtimes can work with.

The converter finds the range of every tensor on images. Behind a ReLU whose channels are all dead, as they may be in a
gate, it finds zeros alone, and a range of next to nothing. The sums of the filters in front would have to be scaled up
thousands of times, and XNNPACK refuses a model with a factor of 256 (its ``requantization scale``) or more.
"""

from typing import Any

import numpy as np

from model.tflite_file import schema

MOST = 256.0  # XNNPACK's limit
FILTERS = {schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.DEPTHWISE_CONV_2D,
           schema.BuiltinOperator.FULLY_CONNECTED}
FREE = FILTERS | {schema.BuiltinOperator.MUL, schema.BuiltinOperator.ADD, schema.BuiltinOperator.LOGISTIC}
# operators whose output has a range of its own


def widened(raw: bytes) -> bytes:
    """The model with wider ranges for what would have to be scaled up by MOST or more.

    The values stay the same, and those outside of the old range are no longer cut off. Such a tensor keeps its range if
    an operator that reads it has to write with the same one.
    """
    found = bytearray(raw)
    model: Any = schema.Model.GetRootAs(found, 0)
    graph = model.Subgraphs(0)
    operators = [graph.Operators(i) for i in range(graph.OperatorsLength())]
    for operator in operators:
        if _kind(model, operator) not in FILTERS:
            continue
        images, filters = (_scales(graph, operator.Inputs(i)) for i in (0, 1))
        output = _scales(graph, operator.Outputs(0))
        if not (len(images) == len(output) == 1 and len(filters)):
            continue  # not quantised
        sums = images[0] * filters.max()
        readers = [o for o in operators if operator.Outputs(0) in o.InputsAsNumpy()]
        if sums / output[0] >= MOST and all(_kind(model, o) in FREE for o in readers):
            _rescale(model, operator.Outputs(0), sums, [o for o in readers if _kind(model, o) in FILTERS])
    return bytes(found)


def _rescale(model: Any, tensor: int, scale: float, filters: list[Any]) -> None:
    """Give the tensor another scale, and the biases of the filters that read it, which are in units of it."""
    graph = model.Subgraphs(0)
    scales = _scales(graph, tensor)
    wider = scale / scales[0]
    scales[0] = scale
    for operator in filters:
        bias = operator.Inputs(2) if operator.InputsLength() > 2 else -1
        if bias >= 0:
            _scales(graph, bias)[:] *= wider
            values = model.Buffers(graph.Tensors(bias).Buffer()).DataAsNumpy().view(np.int32)
            values[:] = np.rint(values / wider)


def _kind(model: Any, operator: Any) -> int:
    code = model.OperatorCodes(operator.OpcodeIndex())
    return max(code.BuiltinCode(), code.DeprecatedBuiltinCode())


def _scales(graph: Any, tensor: int) -> np.ndarray:
    """A view of the tensor's scales in the file; empty if it has none."""
    quantization = graph.Tensors(tensor).Quantization()
    found = quantization.ScaleAsNumpy() if quantization is not None else 0
    return found if isinstance(found, np.ndarray) else np.empty(0)
