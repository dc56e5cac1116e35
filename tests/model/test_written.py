"""Every operator as Keras and the direct .tflite writer have it, held to torch; a wrong one is seen."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from model import int8_ranges, keras_net, tflite_net
from model.network import Group, Input, Network
from model.operators import ACTIVATIONS, OPERATORS, Node, Segment, Unsupported, units
from model.torch_net import TorchNet, weights_of
from tests.helpers import every_operator, sensitive

AGREES, WRONG = 1e-4, 1e-3  # of the spread of outputs between images, in float32
EVERYTHING = every_operator()
FULL = EVERYTHING.full_widths
WIDTHS = {"full": FULL, "without U": {**FULL, "U": 0}, "without D and E": {**FULL, "D": 0, "E": 0},
          "narrow": {**FULL, "A": 5, "U": 2, "C": 3, "D": 2, "E": 1, "H": 4, "M": 3}}


def images_and_logits(model):
    """Two random images, [2, height, width, 3], and torch's logits."""
    height, width = model.network.inputs[0].sides
    images = np.random.default_rng(0).standard_normal((2, height, width, 3)).astype(np.float32)
    with torch.no_grad():
        return images, model(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()


def apart(found, expected):
    return float(np.abs(found - expected).max() / np.ptp(expected, axis=0).max())


def keras_of(model):
    return keras_net.build(model.network, model.widths, weights_of(model), num_images=2)


def keras_logits(model, weights, images):
    return keras_net.build(model.network, model.widths, weights, num_images=len(images))([images]).numpy()


def direct_logits(model, weights, images):
    return tflite_logits(tflite_net.write(model.network, model.widths, weights, len(images)), images)


BACKENDS = pytest.mark.parametrize("logits", [keras_logits, direct_logits])


def tflite_logits(content, images):
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def converter_logits(model, weights, images):
    return tflite_logits(keras_net.to_tflite(keras_of(model)), images)


@pytest.mark.parametrize("logits", [keras_logits, converter_logits, direct_logits])
@pytest.mark.parametrize("which", WIDTHS)
def test_every_operator_computes_what_torch_does(logits, which):
    model = sensitive(TorchNet(EVERYTHING, WIDTHS[which]))
    images, expected = images_and_logits(model)
    assert apart(logits(model, weights_of(model), images), expected) < AGREES


def test_there_is_a_function_for_every_operator():
    assert keras_net.LAYERS.keys() == tflite_net.WRITE.keys() == OPERATORS.keys() == {n.kind for n in EVERYTHING.nodes}


@pytest.mark.parametrize("kind", OPERATORS)
def test_a_wrong_operator_is_seen_in_keras(monkeypatch, kind):
    model = sensitive(TorchNet(EVERYTHING, FULL))
    images, expected = images_and_logits(model)
    right = keras_net.LAYERS[kind]
    monkeypatch.setitem(keras_net.LAYERS, kind, lambda *given: right(*given)[..., ::-1])  # channels in another order
    assert apart(keras_of(model)([images]).numpy(), expected) > WRONG


@pytest.mark.parametrize("kind", OPERATORS)
def test_a_wrong_operator_is_seen_in_a_tflite_file(monkeypatch, kind):
    model = sensitive(TorchNet(EVERYTHING, FULL))
    images, expected = images_and_logits(model)
    right = tflite_net.WRITE[kind]

    def wrong(graph, layer, inputs, weights):
        right(graph, layer, inputs, weights)
        x, name = graph.index[layer.node.name], layer.node.name
        factor = graph.constant(name + ".wrong", 1 + np.arange(layer.cout) / layer.cout)
        graph.index[name] = graph.operator("MUL", [x, factor], name + ".also", graph.shape(x))

    monkeypatch.setitem(tflite_net.WRITE, kind, wrong)
    assert apart(direct_logits(model, weights_of(model), images), expected) > WRONG


@BACKENDS
@pytest.mark.parametrize("parameter", [name for name in EVERYTHING.weight_shapes(FULL) if name.startswith((
    "wide", "grouped", "norm", "even", "scaled", "dense", "hidden"))])
def test_a_wrong_parameter_is_seen(logits, parameter):
    model = sensitive(TorchNet(EVERYTHING, FULL))
    images, expected = images_and_logits(model)
    weights = dict(weights_of(model))
    weights[parameter] = weights[parameter] + 0.5 * (np.arange(len(weights[parameter])) == 0).reshape(
        -1, *[1] * (weights[parameter].ndim - 1)).astype(np.float32)
    assert apart(logits(model, weights, images), expected) > 5 * AGREES


def small(node, sides=(9, 8)):
    """A convolution, the node at hand, and a classifier."""
    after = replace(node, name="node", inputs=("stem",))
    return Network({"net": "small"}, (Input("image", "image", sides),),
                   (Group("image", 3, prunable=False), Group("a", 6), Group("b", 4), Group("y", 5, prunable=False)),
                   (Node("stem", "conv", ("image",), units("a"), kernel=3, bias=True), after,
                    Node("mix", "conv", ("node",), units("b")),
                    Node("pooled", "pool", ("mix",)), Node("y", "linear", ("pooled",), units("y"), bias=True)))


POOLS = [Node("", kind, (), kernel=kernel, stride=stride, padding=padding, ceil_mode=ceil, count_include_pad=include)
         for kind, (kernel, stride), padding, ceil, include in itertools.product(
             ("average_pool", "max_pool"), ((3, 2), ((2, 3), (1, 3))), (None, (1, 1, 1, 1), (0, 1, 1, 0)),
             (False, True), (False, True))
         if include or kind == "average_pool" if padding != (0, 1, 1, 0) or include and not ceil]
CONVOLUTIONS = [
    Node("", "conv", (), (Segment("a", 2),), kernel=3, stride=2, padding=(1, 1, 1, 1), bias=True),
    Node("", "conv", (), (Segment("a", 2),), kernel=3, grouped=True), Node("", "conv", (), units("b"), kernel=(1, 3)),
    Node("", "conv", (), units("b"), kernel=3, dilation=2), Node("", "conv", (), units("b"), stride=(2, 1)),
    Node("", "conv", (), units("b"), kernel=3, padding=(0, 0, 2, 1)),
    Node("", "depthwise", (), kernel=3, stride=2, padding=(1, 1, 1, 1), multiplier=3, bias=True),
    Node("", "depthwise", (), kernel=3, stride=(2, 1), multiplier=2),
    Node("", "depthwise", (), kernel=(3, 1), dilation=2, padding=(2, 2, 0, 0))]


@BACKENDS
@pytest.mark.parametrize("node", [*POOLS, *CONVOLUTIONS], ids=lambda n: f"{n.kind} {n.kernel} {n.stride} {n.padding}")
def test_windows_strides_and_paddings_are_torchs(logits, node):
    network = small(node)
    model = sensitive(TorchNet(network, network.full_widths))
    images, expected = images_and_logits(model)
    assert apart(logits(model, weights_of(model), images), expected) < AGREES


POOL = Node("", "max_pool", (), kernel=3, stride=2, padding=(1, 1, 1, 1))


PADDED = {"usual": (POOL, (10, 10)),
          "beyond the map": (replace(POOL, stride=3, padding=None, ceil_mode=True), (10, 10)),
          "wider than the map": (replace(POOL, kernel=7, padding=(3, 3, 3, 3)), (2, 1))}


@pytest.mark.parametrize("activation", ["relu", ""])
@pytest.mark.parametrize("which", PADDED)
def test_what_stands_around_a_max_pool_is_never_its_largest(activation, which):
    """Zeros where nothing is negative, which one operator gives; else the pixels of the edge."""
    network = small(*PADDED[which])
    network = replace(network, nodes=(replace(network.nodes[0], activation=activation), *network.nodes[1:]))
    model = sensitive(TorchNet(network, network.full_widths))
    with torch.no_grad():
        model.get_parameter("stem.bias").sub_(0.3)  # many pixels are negative
    images, expected = images_and_logits(model)
    keras = keras_of(model)
    assert apart(keras([images]).numpy(), expected) < AGREES
    for content in (keras_net.to_tflite(keras), tflite_net.write(network, network.full_widths, weights_of(model), 2)):
        assert apart(tflite_logits(content, images), expected) < AGREES
        plain = Interpreter(model_content=content,
                            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
        assert ("CONCATENATION" in {op["op_name"] for op in plain._get_ops_details()}) == (not activation)


def test_a_dead_gate_in_int8_runs():
    """All that its ReLU lets through is zero; XNNPACK refuses the range that the converter gives such a tensor."""
    nodes = (Node("stem", "conv", ("image",), units("a"), kernel=3, bn=True, activation="relu"),
             Node("mean", "adaptive_average_pool", ("stem",)),
             Node("squeeze", "conv", ("mean",), units("dead"), bias=True, activation="relu"),
             Node("excite", "conv", ("squeeze",), units("a"), bias=True, activation="hard_sigmoid"),
             Node("gated", "multiply", ("stem", "excite")), Node("pooled", "pool", ("gated",)),
             Node("out", "linear", ("pooled",), units("classes")))
    groups = (Group("image", 3, prunable=False), Group("a", 8), Group("dead", 4), Group("classes", 4, prunable=False))
    network = Network({"net": "gate"}, (Input("image", "image", 8),), groups, nodes)
    model = sensitive(TorchNet(network, network.full_widths))
    with torch.no_grad():
        model.get_parameter("squeeze.bias").fill_(-50)
        model.get_parameter("excite.bias").copy_(torch.linspace(-2, 2, 8))
    pixels = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3)).astype(np.uint8)
    with torch.no_grad():
        expected = model((torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25).numpy()
    keras = keras_net.build(network, network.full_widths, weights_of(model), pixels=([0.5] * 3, [0.25] * 3))
    raw = keras_net.to_signed_tflite(keras, "int8", [p[None] for p in pixels])
    run = Interpreter(model_content=raw).get_signature_runner("serving_default")
    assert apart(np.concatenate([run(image=p[None])["logits"] for p in pixels]), expected) < 0.1
    assert int8_ranges.widened(raw) == raw, "nothing is left to widen"


@pytest.mark.parametrize("activation", ["relu", ""])
@pytest.mark.parametrize("pool", [POOL, PADDED["beyond the map"][0]])
def test_a_padded_max_pool_in_int8(activation, pool):
    network = small(pool)
    network = replace(network, nodes=(replace(network.nodes[0], activation=activation), *network.nodes[1:]))
    model = sensitive(TorchNet(network, network.full_widths))
    pixels = np.random.default_rng(0).integers(0, 256, (64, 9, 8, 3)).astype(np.uint8)
    pixels[0, 0, 0], pixels[0, 0, -1] = 0, 255
    with torch.no_grad():
        images = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
        expected = model(images).numpy()
    keras = keras_net.build(network, network.full_widths, weights_of(model), pixels=([0.5] * 3, [0.25] * 3))
    interpreter = Interpreter(model_content=keras_net.to_signed_tflite(keras, "int8", [p[None] for p in pixels]))
    run = interpreter.get_signature_runner("serving_default")
    found = np.concatenate([run(image=p[None])["logits"] for p in pixels])
    assert apart(found, expected) < 0.1


@pytest.mark.parametrize("activation", [a for a in ACTIVATIONS if a])
def test_activations_are_torchs(activation):
    network = small(Node("", "activation", (), activation=activation, slope=0.3))
    model = sensitive(TorchNet(network, network.full_widths))
    with torch.no_grad():
        model.get_parameter("stem.weight").mul_(8)  # some values above 6, some below -3
    images, expected = images_and_logits(model)
    for logits in (keras_logits, converter_logits, direct_logits):
        assert apart(logits(model, weights_of(model), images), expected) < AGREES


@pytest.mark.parametrize("node, words", [
    (Node("", "conv", (), units("b"), kernel=3, stride=2, dilation=2), "no convolution with both stride 2 and"),
    (Node("", "max_pool", (), kernel=2, dilation=2), "no max pool with dilation 2")])
def test_what_keras_lacks_is_refused_by_name(node, words):
    network = small(node)
    with pytest.raises(Unsupported, match=f"node: Keras has {words}"):
        keras_of(TorchNet(network, network.full_widths))


def test_names_of_users_and_of_keras_do_not_meet():
    """Layers with the names of what Keras, or this writer, adds."""
    names = {"stem": "normalise", "node": "normalise_bn", "mix": "conv2d", "pooled": "flatten"}
    network = small(Node("", "conv", (), units("b"), kernel=3, bn=True, activation="silu"))
    network = replace(network, nodes=tuple(replace(
        n, name=names.get(n.name, n.name), inputs=tuple(names.get(i, i) for i in n.inputs), bn=n.bn or n.name == "stem",
        module=n.name, bn_module=f"norm_{n.name}") for n in network.nodes))
    model = sensitive(TorchNet(network, network.full_widths))
    images, expected = images_and_logits(model)
    keras = keras_net.build(network, network.full_widths, weights_of(model), 2, pixels=([0.0] * 3, [1 / 255] * 3))
    assert apart(keras([images]).numpy(), expected) < AGREES
