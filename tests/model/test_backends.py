"""Law 2: description, torch module and Keras model agree in channels, strides, sizes, parameters and outputs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter

from model import tflite_net
from model.operators import Node, parameters_of
from model.torch_net import Conv2d, TorchNet, weights_of
from tests.helpers import NETWORKS, depthwise_network, sensitive


def some_widths(network):
    """The unpruned network, a narrow one, and two without a removable branch where there are any."""
    full = network.full_widths
    narrow = {g.name: max(g.width // 3, 1) if g.prunable else g.width for g in network.groups}
    removed = [dict(full, **{g.name: 0}) for g in network.groups if g.removable]
    return {"full": full, "narrow": narrow, **({"removed": removed[0], "removed last": removed[-1]} if removed else {})}


CASES = [(name, which) for name, network in NETWORKS.items() for which in some_widths(network)]


@pytest.mark.parametrize("name, which", CASES)
def test_torch_module_is_what_the_description_says(name, which):
    network, widths = NETWORKS[name], some_widths(NETWORKS[name])[which]
    model = TorchNet(network, widths).eval()
    shapes = {n: tuple(v.shape) for n, v in model.state_dict().items() if not n.endswith("num_batches_tracked")}
    assert shapes == network.weight_shapes(widths)
    assert sum(p.numel() for p in model.parameters()) == network.parameter_count(widths)

    seen = {}
    hooks = [getattr(model, a.node.name).register_forward_hook(
        lambda module, _, output, layer=a: seen.update({layer.node.name: (module, tuple(output.shape))}))
        for a in model.layers if hasattr(model, a.node.name)]
    size = network.inputs[0].size
    logits = model(torch.zeros(2, 3, size, size))
    assert logits.shape == (2, model.layers[-1].cout)
    assert len(seen) == len(hooks) >= 3
    for layer in model.layers:
        if layer.node.kind in ("conv", "depthwise"):
            module, shape = seen[layer.node.name]
            assert shape == (2, layer.cout, layer.out_size, layer.out_size)
            assert module.stride == (layer.node.stride,) * 2


def test_known_parameter_counts():
    from model.architectures import describe
    for depth, width, count in ((10, 1.0, 78106), (16, 1.0, 175322), (40, 2.0, 2243546)):
        network = describe("res", depth=depth, width=width)
        assert network.parameter_count(network.full_widths) == count


@pytest.mark.parametrize("size, kernel, stride, sides", [(8, 3, 2, (0, 1)), (7, 3, 2, (1, 1)), (8, 3, 1, (1, 1)),
                                                         (8, 1, 2, (0, 0))])
def test_same_padding(size, kernel, stride, sides):
    conv = Conv2d(2, 3, Node("", "conv", (), kernel=kernel, stride=stride))
    x = torch.randn(1, 2, size, size)
    padded = torch.nn.functional.pad(x, sides * 2)
    expected = torch.nn.functional.conv2d(padded, conv.weight, stride=stride)
    assert conv(x).shape[-1] == -(-size // stride)
    assert torch.equal(conv(x), expected[..., :-(-size // stride), :-(-size // stride)])


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_gradients_are_laid_out_like_what_they_are_of(layout):
    """A strided skip once turned the gradients of all layers before it to the other layout, which is slow."""
    network, seen = NETWORKS["res-16-0.5"], {}
    model = TorchNet(network, network.full_widths).to(memory_format=layout).train()
    run = model._run

    def watched(layer, inputs):
        out = run(layer, inputs)
        if out.dim() == 4 and out.shape[1] > 1 and out.shape[2] > 1:
            def look(gradient):
                seen[layer.node.name] = gradient.is_contiguous(memory_format=layout)
            out.register_hook(look)
        return out

    model._run = watched
    model(torch.randn(4, 3, 32, 32).contiguous(memory_format=layout)).square().sum().backward()
    before_the_pool = network.nodes[-3].name
    assert len(seen) > 15 and {name for name, alike in seen.items() if not alike} <= {before_the_pool}


def test_a_strided_skip_is_the_same_in_training():
    conv = Conv2d(4, 6, Node("", "conv", (), kernel=1, stride=2))
    for layout in (torch.channels_last, torch.contiguous_format):
        x = torch.randn(2, 4, 7, 7).contiguous(memory_format=layout)
        assert torch.equal(conv.train()(x), conv.eval()(x))
        assert conv(x).shape == (2, 6, 4, 4)


@pytest.mark.parametrize("name, which", CASES)
def test_keras_model_agrees_with_torch(name, which):
    from model import keras_net
    network, widths = NETWORKS[name], some_widths(NETWORKS[name])[which]
    model = sensitive(TorchNet(network, widths))
    keras = keras_net.build(network, widths, weights_of(model), num_images=2)
    assert sum(int(np.prod(w.shape)) for w in keras.trainable_weights) == network.parameter_count(widths)
    for layer in network.layers(widths):
        if layer.node.kind in ("conv", "depthwise", "add"):
            found = keras.get_layer(f"net.{layer.node.name}")
            assert tuple(found.output.shape) == (2, layer.out_size, layer.out_size, layer.cout)
            if layer.node.kind != "add":
                assert tuple(found.strides) == (layer.node.stride,) * 2
    images, expected = images_and_logits(model)
    assert apart(keras([images]).numpy(), expected) < AGREES


# --- controls: what is wrong is seen ---------------------------------------------------------------------------

AGREES, WRONG = 1e-3, 1e-2  # of the spread of outputs between images, in float32


def images_and_logits(model, count=2):
    """Random images, [N, size, size, 3], and torch's logits."""
    size = model.network.inputs[0].size
    images = np.random.default_rng(0).standard_normal((count, size, size, 3), np.float32)
    with torch.no_grad():
        return images, model(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()


def apart(found, expected):
    """The largest difference, of the spread of outputs between images."""
    return float(np.abs(found - expected).max()) / float((expected - expected.mean(0)).std())


def tflite_logits(network, weights, images):
    interpreter = Interpreter(model_content=tflite_net.write(network, network.full_widths, weights, len(images)))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def keras_logits(network, weights, images):
    from model import keras_net
    return keras_net.build(network, network.full_widths, weights, num_images=len(images))([images]).numpy()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_tflite_file_agrees_with_torch(name):
    model = sensitive(TorchNet(NETWORKS[name], NETWORKS[name].full_widths))
    images, expected = images_and_logits(model)
    assert apart(tflite_logits(NETWORKS[name], weights_of(model), images), expected) < AGREES


BACKENDS = pytest.mark.parametrize("logits", [keras_logits, tflite_logits])


@BACKENDS
@pytest.mark.parametrize("name", ["res-10-1", "depthwise"])  # all kinds of layers
def test_a_wrong_parameter_is_seen(logits, name):
    """Of every kind of layer the first: each of its parameters is wrong in one channel, or channels change places."""
    network = NETWORKS[name]
    model = sensitive(TorchNet(network, network.full_widths))
    images, expected = images_and_logits(model)
    weights = {key: value.copy() for key, value in weights_of(model).items()}
    assert apart(logits(network, weights, images), expected) < AGREES
    seen = set()
    for node in network.nodes:
        for key in parameters_of(node, 1, 1):
            what = (node.kind, key.removeprefix(node.bn_path if key.startswith(node.bn_path) else node.path),
                    key.startswith(node.bn_path))
            if what in seen:
                continue
            seen.add(what)
            right = weights[key]
            strongest = np.abs(right.reshape(len(right), -1)).sum(1).argmax()
            for wrong in (right + (np.arange(len(right)) == strongest).reshape(-1, *[1] * (right.ndim - 1)).astype(
                    np.float32), np.roll(right, 1, axis=0)):
                found = logits(network, {**weights, key: wrong}, images)
                assert np.array_equal(wrong, right) or apart(found, expected) > WRONG, key
    assert len(seen) >= 7


def most(net, layer, inputs):
    """A pool that takes the largest pixel, and an addition that forgets an operand."""
    import tensorflow as tf
    if len(inputs) > 1:
        return tf.keras.layers.Identity(name=layer.node.name)(inputs[0])
    return tf.keras.layers.GlobalMaxPooling2D(name=layer.node.name)(inputs[0])


@pytest.mark.parametrize("kind", ["pool", "add"])
def test_a_wrong_operator_is_seen_in_keras(monkeypatch, kind):
    from model import keras_net
    network = NETWORKS["depthwise"]
    model = sensitive(TorchNet(network, network.full_widths))
    images, expected = images_and_logits(model)
    monkeypatch.setitem(keras_net.LAYERS, kind, most)
    assert apart(keras_logits(network, weights_of(model), images), expected) > WRONG


@pytest.mark.parametrize("kind", ["pool", "add"])
def test_a_wrong_operator_is_seen_in_a_tflite_file(monkeypatch, kind):
    network = NETWORKS["depthwise"]
    model = sensitive(TorchNet(network, network.full_widths))
    images, expected = images_and_logits(model)
    right = tflite_net.WRITE[kind]

    def wrong(graph, layer, inputs, weights):
        if kind == "add":
            graph.index[layer.node.name] = inputs[0]
            return
        right(graph, layer, inputs, weights)
        graph.operators[-1] = ("MAX_POOL_2D", *graph.operators[-1][1:])
        graph.versions["MAX_POOL_2D"] = 1

    monkeypatch.setitem(tflite_net.WRITE, kind, wrong)
    assert apart(tflite_logits(network, weights_of(model), images), expected) > WRONG


@BACKENDS
@pytest.mark.parametrize("activation", ["", "relu", "relu6"])
def test_activations_are_torchs(logits, activation):
    network = depthwise_network()
    network = replace(network, nodes=tuple(replace(n, activation=activation) if n.activation else n
                                           for n in network.nodes))
    model = sensitive(TorchNet(network, network.full_widths))
    with torch.no_grad():
        for norm in model.modules():
            if isinstance(norm, torch.nn.BatchNorm2d):
                norm.weight.mul_(8)  # some values above 6, some below 0
    images, expected = images_and_logits(model)
    assert apart(logits(network, weights_of(model), images), expected) < AGREES
    for other in {"", "relu", "relu6"} - {activation}:
        nodes = tuple(replace(n, activation=other) if n.name == "Filter" else n for n in network.nodes)
        assert apart(logits(replace(network, nodes=nodes), weights_of(model), images), expected) > WRONG
