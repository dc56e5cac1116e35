"""The Keras model of (network, widths), and its .tflite file through TensorFlow's own converter."""

import gc
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable, Optional

import numpy as np
import tensorflow as tf

from model.int8_ranges import widened
from model.network import Layer, Network, Widths
from model.operators import (
    BATCH_NORM,
    Channels,
    Node,
    Padding,
    Unsupported,
    count,
    pair,
    parameters_of,
    same_padding,
)
from model.windows import never_negative, reach, share_seen


def build(network: Network, widths: Widths, weights: Mapping[str, np.ndarray], num_images: int = 1, *,
          pixels: Optional[tuple[Sequence[float], Sequence[float]]] = None) -> "tf.keras.Model":
    """``network`` at ``widths`` for batches of ``num_images``: [N, size, size, channels] -> logits [N, classes].

    weights: parameters by name in PyTorch's layouts, as ``network.weight_shapes`` lists them. pixels: mean and
    standard deviation per channel of pixels in 0..1; the model then takes pixels in 0..255 and normalises them itself.
    """
    inputs = {i.name: tf.keras.Input((*i.sides, count(i.tensor.channels, widths)), batch_size=num_images, name=i.name)
              for i in network.inputs}
    values = {name: _normalised(x, *pixels) if pixels else x for name, x in inputs.items()}
    net = _Net(network, widths, never_negative(network.layers(widths)))
    for layer in network.layers(widths):
        values[layer.node.name] = _apply(net, layer, [values[n] for n in layer.inputs])
    model = tf.keras.Model(list(inputs.values()), values[network.layers(widths)[-1].node.name])
    for layer in network.layers(widths):
        _load(model, layer, weights)
    return model


def _name(node: Node) -> str:
    """Of a layer: none that Keras gives to a layer without a name, and none of a batch norm."""
    return f"net.{node.name}"


def _norm_name(node: Node) -> str:
    return f"norm.{node.name}"


def _normalised(x, mean: Sequence[float], std: Sequence[float]):
    """Normalise pixels of 0..255. The constants are repeated for a whole row of pixels: with three constants, one per
    channel, XNNPACK multiplies so slowly that a small network takes 5% longer."""
    means, stds = (np.tile(np.asarray(v, np.float64), (x.shape[2], 1)) for v in (mean, std))  # [size, channels]
    scale, shift = np.float32(1 / (255 * stds)), np.float32(-means / stds)
    return tf.keras.layers.Rescaling(scale, shift, name="pixels.normalise")(x)


# --- operators: the network, a layer and what it reads -> its output, before batch norm and activation -----------

@dataclass(frozen=True)
class _Net:
    network: Network
    widths: Widths
    positive: frozenset[str]  # tensors that are never negative

    def count(self, channels: Channels) -> int:
        return count(channels, self.widths)


class _Scale(tf.keras.layers.Layer):
    """A factor for each channel."""

    def build(self, input_shape) -> None:
        self.factor = self.add_weight(shape=(input_shape[-1],), name="factor")

    def call(self, x):
        return x * self.factor


def _conv(net: _Net, layer: Layer, inputs):
    node, (x, padding) = layer.node, _padded(layer, inputs[0])
    return tf.keras.layers.Conv2D(layer.cout, groups=_groups(layer), **_filters(node, padding))(x)


def _depthwise(net: _Net, layer: Layer, inputs):
    node, (x, padding) = layer.node, _padded(layer, inputs[0])
    if _is_depthwise(node):
        return tf.keras.layers.DepthwiseConv2D(depth_multiplier=node.multiplier, **_filters(node, padding))(x)
    return tf.keras.layers.Conv2D(layer.cout, groups=layer.cin, **_filters(node, padding))(x)


def _groups(layer: Layer) -> int:
    return layer.cout // layer.node.channels[0].repeat if layer.node.grouped else 1


def _is_depthwise(node: Node) -> bool:
    """Whether Keras has a layer of this name for it: with one stride for both sides."""
    return node.kind == "depthwise" and len(set(pair(node.stride))) == 1


def _filters(node: Node, padding: str) -> dict[str, Any]:
    if max(pair(node.stride)) > 1 and max(pair(node.dilation)) > 1:
        raise Unsupported(f"{node.name}: Keras has no convolution with both stride {node.stride} and dilation "
                          f"{node.dilation}")
    return {"kernel_size": node.kernel, "strides": node.stride, "dilation_rate": node.dilation, "padding": padding,
            "use_bias": node.bias, "name": _name(node)}


def _padded(layer: Layer, x):
    """The map with zeros around it, where Keras's own padding, "same" or "valid", does not give them."""
    same = same_padding(layer.node, layer.in_sides)
    wanted = same if layer.node.padding is None else layer.node.padding
    if wanted == same:
        return x, "same"
    return (_framed(x, wanted) if any(wanted) else x), "valid"


def _framed(x, padding: Padding):
    top, bottom, left, right = padding
    return tf.keras.layers.ZeroPadding2D(((top, bottom), (left, right)))(x)


def _linear(net: _Net, layer: Layer, inputs):
    return tf.keras.layers.Dense(layer.cout, use_bias=layer.node.bias, name=_name(layer.node))(inputs[0])


def _pool(net: _Net, layer: Layer, inputs):
    x = tf.keras.layers.AveragePooling2D(layer.in_sides, name=_name(layer.node))(inputs[0])
    return tf.keras.layers.Flatten()(x)


def _adaptive(kind: Any) -> Any:
    def made(net: _Net, layer: Layer, inputs):
        window = tuple(side // wanted for side, wanted in zip(layer.in_sides, layer.out_sides))
        return kind(window, name=_name(layer.node))(inputs[0])
    return made


def _max_pool(net: _Net, layer: Layer, inputs):
    node, x, around = layer.node, inputs[0], reach(layer.node, layer.in_sides, layer.out_sides)
    if max(pair(node.dilation)) > 1:
        raise Unsupported(f"{node.name}: Keras has no max pool with dilation {node.dilation}")
    padding = "valid"
    if around == same_padding(node, layer.in_sides):
        padding = "same"
    elif any(around):
        x = _around_a_max_pool(x, around, positive=net.positive.issuperset(layer.inputs))
    return tf.keras.layers.MaxPooling2D(node.kernel, node.stride, padding, name=_name(node))(x)


def _around_a_max_pool(x, around: Padding, *, positive: bool):
    """A map with pixels around it that are never the largest of a window.

    Zeros, if it is never negative: XNNPACK runs them. Else the pixels of its edge again: every window that reaches
    beyond an edge has the pixel there. The lowest number would not quantise.
    """
    top, bottom, left, right = around
    if positive:
        return _framed(x, around)
    x = tf.keras.ops.concatenate([*[x[:, :1]] * top, x, *[x[:, -1:]] * bottom], axis=1) if top or bottom else x
    return tf.keras.ops.concatenate([*[x[:, :, :1]] * left, x, *[x[:, :, -1:]] * right], axis=2) if left or right else x


def _average_pool(net: _Net, layer: Layer, inputs):
    """Of all pixels of a window; then times what torch divides by: those of the map, or those of its padding, too."""
    node, around = layer.node, reach(layer.node, layer.in_sides, layer.out_sides)
    x = _framed(inputs[0], around) if any(around) else inputs[0]
    found = tf.keras.layers.AveragePooling2D(node.kernel, node.stride, name=_name(node))(x)
    seen = share_seen(node, layer.in_sides, layer.out_sides)
    return found if (seen == 1).all() else found * (1 / seen)[None, :, :, None].astype(np.float32)


def _add(net: _Net, layer: Layer, inputs):
    if len(inputs) == 1:  # its other operands are gone; it is here for its activation
        return inputs[0]
    return tf.keras.layers.Add(name=_name(layer.node))(inputs)


def _multiply(net: _Net, layer: Layer, inputs):
    if len(inputs) == 1:  # without its gate
        return inputs[0]
    x, gate = inputs
    if len(gate.shape) < len(x.shape):
        gate = tf.keras.layers.Reshape((1, 1, layer.cout))(gate)
    return tf.keras.layers.Multiply(name=_name(layer.node))([x, gate])


def _concat(net: _Net, layer: Layer, inputs):
    return tf.keras.layers.Concatenate(name=_name(layer.node))(inputs) if len(inputs) > 1 else inputs[0]


def _split(net: _Net, layer: Layer, inputs):
    before = net.count(net.network.tensors[layer.node.inputs[0]].channels[:layer.node.part[0]])
    return inputs[0][..., before:before + layer.cout]


def _shuffle(net: _Net, layer: Layer, inputs):
    (height, width), blocks = layer.in_sides, layer.node.blocks
    x = tf.keras.layers.Reshape((height * width, blocks, layer.cout // blocks))(inputs[0])
    x = tf.keras.layers.Permute((1, 3, 2))(x)
    return tf.keras.layers.Reshape((height, width, layer.cout), name=_name(layer.node))(x)


def _flatten(net: _Net, layer: Layer, inputs):
    """Channel by channel, as torch does."""
    x = tf.keras.layers.Permute((3, 1, 2))(inputs[0]) if layer.in_sides != (1, 1) else inputs[0]
    return tf.keras.layers.Flatten(name=_name(layer.node))(x)


def _pad(net: _Net, layer: Layer, inputs):
    return _framed(inputs[0], layer.node.padding or (0, 0, 0, 0))


def _pad_channels(net: _Net, layer: Layer, inputs):
    node, x = layer.node, inputs[0]
    around = net.count(node.channels[:node.part[0]]), net.count(node.channels[node.part[1]:])
    return tf.keras.ops.pad(x, (*[(0, 0)] * (len(x.shape) - 1), around))


def _as_it_is(net: _Net, layer: Layer, inputs):
    return inputs[0]


def _batch_norm(net: _Net, layer: Layer, inputs):
    return tf.keras.layers.BatchNormalization(epsilon=layer.node.bn_epsilon, name=_name(layer.node))(inputs[0])


def _layer_norm(net: _Net, layer: Layer, inputs):
    return tf.keras.layers.LayerNormalization(epsilon=layer.node.bn_epsilon, name=_name(layer.node))(inputs[0])


LAYERS: dict[str, Callable[[_Net, Layer, Sequence[Any]], Any]] = {
    "conv": _conv, "depthwise": _depthwise, "linear": _linear, "pool": _pool, "add": _add, "multiply": _multiply,
    "concat": _concat, "split": _split, "shuffle": _shuffle, "flatten": _flatten, "pad": _pad,
    "pad_channels": _pad_channels, "max_pool": _max_pool, "average_pool": _average_pool,
    "adaptive_average_pool": _adaptive(tf.keras.layers.AveragePooling2D),
    "adaptive_max_pool": _adaptive(tf.keras.layers.MaxPooling2D), "batch_norm": _batch_norm, "layer_norm": _layer_norm,
    "scale": lambda net, layer, inputs: _Scale(name=_name(layer.node))(inputs[0]),
    "activation": _as_it_is, "dropout": _as_it_is}  # an activation follows, and a dropout is idle in inference
MOST = {"relu": None, "relu6": 6.0}  # what an activation cuts off


def _apply(net: _Net, layer: Layer, inputs):
    node = layer.node
    x = LAYERS[node.kind](net, layer, inputs)
    if node.bn:
        x = tf.keras.layers.BatchNormalization(epsilon=node.bn_epsilon, name=_norm_name(node))(x)
    if not node.activation:
        return x
    if node.activation == "leaky_relu":
        return tf.keras.layers.LeakyReLU(negative_slope=node.slope)(x)
    if node.activation not in MOST:
        return tf.keras.layers.Activation(node.activation)(x)
    name = _name(node) if x is inputs[0] else None  # of an addition that is here for its activation
    return tf.keras.layers.ReLU(max_value=MOST[node.activation], name=name)(x)


def _load(model, layer: Layer, weights: Mapping[str, np.ndarray]) -> None:
    """Give a layer its parameters, in Keras's layouts."""
    node = layer.node
    names = [name for name in parameters_of(node, layer.cin, layer.cout) if not name.startswith(f"{node.bn_path}.")]
    if names:
        filters, *others = (weights[name] for name in names)
        model.get_layer(_name(node)).set_weights([_turned(node, filters), *others])
    if node.bn:
        model.get_layer(_norm_name(node)).set_weights([weights[f"{node.bn_path}.{k}"] for k in BATCH_NORM])


def _turned(node: Node, filters: np.ndarray) -> np.ndarray:
    """Filters from torch's layout, [cout, cin of a group, height, width] or [cout, cin], to Keras's."""
    if _is_depthwise(node):  # [height, width, cin, multiplier]
        cout, _, *sides = filters.shape
        return filters.reshape(cout // node.multiplier, node.multiplier, *sides).transpose(2, 3, 0, 1)
    return filters.transpose(2, 3, 1, 0) if filters.ndim == 4 else filters.T if filters.ndim == 2 else filters


def forget_all() -> None:
    """Free every model that this process has built: Keras keeps tens of MB for each conversion."""
    tf.keras.backend.clear_session()
    gc.collect()


def to_tflite(model) -> bytes:
    """Convert with TensorFlow's converter, float32, its default optimisations."""
    return tf.lite.TFLiteConverter.from_keras_model(model).convert()


def to_signed_tflite(model, quantize: str = "none", calibration: Iterable[np.ndarray] = ()) -> bytes:
    """Convert a model of one input, with a signature: ``serving_default``, image -> logits (float32).

    quantize: "none", "float16" and "dynamic" (int8 weights) take a float32 image. "int8" quantises everything but the
    logits, and takes a uint8 image. calibration: for int8, images as the model takes them, [1, size, size, channels]
    in 0..255; the converter finds the ranges of all values on them.
    """
    shape = model.inputs[0].shape

    def serve(image):
        return {"logits": model(image, training=False)}

    function: Any = tf.function(serve, input_signature=[tf.TensorSpec(shape, tf.float32, name="image")])
    holder: Any = tf.Module()  # the converter turns only this module's variables into constants
    holder.weights = [variable.value for variable in model.variables]
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], holder)
    if quantize != "none":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantize == "int8":
        converter.representative_dataset = lambda: ([np.float32(image)] for image in calibration)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.uint8
    return widened(converter.convert()) if quantize == "int8" else converter.convert()
