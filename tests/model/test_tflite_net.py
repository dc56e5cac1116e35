"""The direct writer against TensorFlow's own converter: operators, options, shapes and outputs."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from model import keras_net
from model.architectures import describe
from model.tflite_net import random_weights, write
from model.torch_net import TorchNet, weights_of
from model.variant import network_of
from tests.helpers import depthwise_network, every_operator, lively
from utils.latency import correction

TABLES = describe("res", depth=40, width=2.0).tables

OPERATOR_NAMES = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}

# every kind at one channel, at odd counts, and at its largest
VARIANTS = [(key, cin, cout) for key, t in TABLES.items()
            for cin, cout in [next(t.entries()), [e for e in t.entries() if e[0] % 2][-1] if t.columns == 1
                              else (t.rows // 2 | 1, t.columns // 3 | 1), list(t.entries())[-1]]]


def structure(raw: bytes):
    """What a runtime sees: [(operator, version, options, shapes read, shapes written)], input and output shapes."""
    model = schema.ModelT.InitFromPackedBuf(raw, 0)
    graph, = model.subgraphs

    def shapes(indices):
        return [tuple(int(n) for n in graph.tensors[i].shape) if i >= 0 else None for i in indices]

    operators = []
    for op in graph.operators:
        code = model.operatorCodes[op.opcodeIndex]
        options = {k: v for k, v in vars(op.builtinOptions).items() if v is not None} if op.builtinOptions else {}
        options.pop("newShape", None)  # of a RESHAPE: its second input has it, too
        operators.append((OPERATOR_NAMES[code.builtinCode], code.deprecatedBuiltinCode, code.version, options,
                          shapes(op.inputs), shapes(op.outputs)))
    types = {t.type for t in graph.tensors}
    return operators, sorted(shapes(graph.inputs)), shapes(graph.outputs), types, model.version


def run(raw: bytes, images):
    interpreter = Interpreter(model_content=raw)
    interpreter.allocate_tensors()
    for detail, image in zip(sorted(interpreter.get_input_details(), key=lambda d: d["name"]), images):
        interpreter.set_tensor(detail["index"], image)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def images_for(network, widths, num_images=1):
    random = np.random.default_rng(0)
    return [random.standard_normal((num_images, *i.sides, widths[i.group]), np.float32) for i in network.inputs]


def both(network, widths, num_images=1):
    weights = random_weights(network, widths)
    ours = write(network, widths, weights, num_images)
    return ours, keras_net.to_tflite(keras_net.build(network, widths, weights, num_images))


def assert_close(a, b):
    np.testing.assert_allclose(a, b, atol=1e-4 * max(1, np.abs(b).max()))


@pytest.mark.slow
@pytest.mark.parametrize("key, cin, cout", VARIANTS)
def test_a_variant_is_what_the_converter_writes(key, cin, cout):
    network = network_of(TABLES[key], cin, cout)
    ours, theirs = both(network, network.full_widths)
    assert structure(ours) == structure(theirs)
    images = images_for(network, network.full_widths)
    assert_close(run(ours, images), run(theirs, images))


EVERYTHING = every_operator()
ALONE_OTHERWISE = {"pool", "linear"}  # alone, a vector is a map of one pixel


@pytest.mark.slow
@pytest.mark.parametrize("key", [k for k, t in EVERYTHING.tables.items() if t.kind not in ALONE_OTHERWISE])
def test_any_operator_is_what_the_converter_writes(key):
    table = EVERYTHING.tables[key]
    network = network_of(table, *table.entry(table.rows * table.columns - 1))
    ours, theirs = both(network, network.full_widths)
    assert structure(ours) == structure(theirs)


def test_a_network_of_all_operators_has_the_converters():
    """In another order, and but for a vector that multiplies a map: we give it the sides of a pixel, they do not."""
    ours, theirs = (structure(raw) for raw in both(EVERYTHING, EVERYTHING.full_widths))
    apart = [sorted(str(op) for op in one[0] if op not in other[0]) for one, other in ((ours, theirs), (theirs, ours))]
    assert [[op.split("'")[1] for op in ops] for ops in apart] == [["MUL", "RESHAPE"], ["MUL"]]
    assert ours[1:] == theirs[1:]


def test_what_the_operators_are():
    kinds = {key: [op[0] for op in structure(write(n, n.full_widths, random_weights(n, n.full_widths)))[0]]
             for key, t in TABLES.items() for n in [network_of(t, *next(t.entries()))]}
    assert kinds["Conv_0"] == kinds["Stride_2"] == kinds["No_Stride_3"] == kinds["Skip_1"] == ["CONV_2D"]
    assert kinds["Join_2"] == ["ADD", "MUL", "ADD"]
    assert kinds["FC"] == ["AVERAGE_POOL_2D", "FULLY_CONNECTED"]


def test_fused_relu_where_one_follows():
    def activation(key):
        n = network_of(TABLES[key], 3, 16)
        return structure(write(n, n.full_widths, random_weights(n, n.full_widths)))[0][-1][3]["fusedActivationFunction"]
    relu, none = schema.ActivationFunctionType.RELU, schema.ActivationFunctionType.NONE
    assert [activation(k) for k in ("Conv_0", "Stride_1", "No_Stride_1", "Skip_1")] == [relu, relu, relu, none]


WIDTHS = {"full": {}, "pruned": {"Conv_0": 7, "Conv_1_0_2": 5, "Conv_2_1_1": 1, "Conv_3_0_2": 33},
          "blocks removed": {"Conv_1_0_1": 0, "Conv_2_1_1": 0, "Conv_3_0_1": 0}}


@pytest.mark.parametrize("change", WIDTHS.values(), ids=WIDTHS)
def test_a_whole_network_is_what_the_converter_writes(change):
    network = describe("res", depth=16, width=1.0)
    widths = dict(network.full_widths, **change)
    ours, theirs = both(network, widths)
    assert structure(ours) == structure(theirs)
    images = images_for(network, widths)
    assert_close(run(ours, images), run(theirs, images))


@pytest.mark.slow
def test_the_networks_a_table_is_judged_on_are_what_the_converter_writes():
    """Random widths, blocks removed, lively batch norms: outputs within 1e-4."""
    network = describe("res", depth=16, width=1.0)
    random = correction.judging_networks(network, 6, seed=123)
    assert any(0 in widths.values() for widths in random)
    for widths in random:
        ours, theirs = both(network, widths)
        assert structure(ours) == structure(theirs)
        images = images_for(network, widths)
        np.testing.assert_allclose(run(ours, images), run(theirs, images), atol=1e-4, rtol=1e-4)


def test_a_batch_of_images():
    network = network_of(TABLES["Stride_3"], 5, 3)
    ours, theirs = both(network, network.full_widths, num_images=3)
    assert structure(ours) == structure(theirs)
    assert structure(ours)[1:3] == ([(3, 16, 16, 5)], [(3, 8, 8, 3)])


@pytest.mark.parametrize("network, change", [(depthwise_network(), {}), (depthwise_network(), {"expanded": 0}),
                                             (describe("res", depth=10, width=1.0), {"Conv_2_0_1": 0})])
def test_the_written_network_computes_what_torch_does(network, change):
    import torch
    widths = dict(network.full_widths, **change)
    model = lively(TorchNet(network, widths))
    image, = images_for(network, widths)
    with torch.no_grad():
        expected = model(torch.from_numpy(image).permute(0, 3, 1, 2)).numpy()
    assert_close(run(write(network, widths, weights_of(model)), [image]), expected)


def test_weights_are_aligned_in_the_file():
    network = network_of(TABLES["No_Stride_1"], 3, 5)
    weights = random_weights(network, network.full_widths)
    raw = write(network, network.full_widths, weights)
    model = schema.Model.GetRootAs(raw, 0)
    starts = [raw.find(model.Buffers(i).DataAsNumpy().tobytes()) for i in range(1, model.BuffersLength())]
    assert len(starts) == 2 and all(start > 0 and start % 16 == 0 for start in starts)


def test_the_same_bytes_every_time():
    network = network_of(TABLES["FC"], 7, 10)
    a, b = (write(network, network.full_widths, random_weights(network, network.full_widths)) for _ in range(2))
    assert a == b and a[4:8] == b"TFL3"
