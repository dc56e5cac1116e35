"""Law 2: description, torch module and Keras model agree in channels, strides, sizes, parameters and outputs."""

import numpy as np
import pytest
import torch

from model.operators import Node
from model.torch_net import Conv2d, TorchNet, weights_of
from tests.helpers import NETWORKS, lively


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
    model = lively(TorchNet(network, widths))
    keras = keras_net.build(network, widths, weights_of(model), num_images=2)
    assert sum(int(np.prod(w.shape)) for w in keras.trainable_weights) == network.parameter_count(widths)
    for layer in network.layers(widths):
        if layer.node.kind in ("conv", "depthwise", "add"):
            found = keras.get_layer(layer.node.name)
            assert tuple(found.output.shape) == (2, layer.out_size, layer.out_size, layer.cout)
            if layer.node.kind != "add":
                assert tuple(found.strides) == (layer.node.stride,) * 2
    images = np.random.default_rng(0).standard_normal((2, network.inputs[0].size, network.inputs[0].size, 3),
                                                      np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(keras([images]).numpy(), expected, atol=1e-4 * max(1, np.abs(expected).max()))
