"""The Keras model of (network, widths), and its .tflite file through TensorFlow's own converter."""

import gc
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Callable, Optional

import numpy as np
import tensorflow as tf

from model.network import Layer, Network, Widths
from model.operators import BATCH_NORM, refuse_beyond_the_basics


def build(network: Network, widths: Widths, weights: Mapping[str, np.ndarray], num_images: int = 1, *,
          pixels: Optional[tuple[Sequence[float], Sequence[float]]] = None) -> "tf.keras.Model":
    """``network`` at ``widths`` for batches of ``num_images``: [N, size, size, channels] -> logits [N, classes].

    weights: parameters by name in PyTorch's layouts, as ``network.weight_shapes`` lists them. pixels: mean and
    standard deviation per channel of pixels in 0..1; the model then takes pixels in 0..255 and normalises them itself.
    """
    inputs = {i.name: tf.keras.Input((*i.sides, widths[i.group]), batch_size=num_images, name=i.name)
              for i in network.inputs}
    values = {name: _normalised(x, *pixels) if pixels else x for name, x in inputs.items()}
    for layer in network.layers(widths):
        values[layer.node.name] = _apply(layer, [values[n] for n in layer.inputs])
    model = tf.keras.Model(list(inputs.values()), values[network.layers(widths)[-1].node.name])
    for layer in network.layers(widths):
        _load(model, layer, weights)
    return model


def _normalised(x, mean: Sequence[float], std: Sequence[float]):
    """Normalise pixels of 0..255. The constants are repeated for a whole row of pixels: with three constants, one per
    channel, XNNPACK multiplies so slowly that a small network takes 5% longer."""
    means, stds = (np.tile(np.asarray(v, np.float64), (x.shape[2], 1)) for v in (mean, std))  # [size, channels]
    return tf.keras.layers.Rescaling(np.float32(1 / (255 * stds)), np.float32(-means / stds), name="normalise")(x)


# --- operators: a layer and what it reads -> its output, before batch norm and activation ----------------------

def _conv(layer: Layer, inputs):
    return tf.keras.layers.Conv2D(layer.cout, layer.node.kernel, **_filters(layer))(inputs[0])


def _depthwise(layer: Layer, inputs):
    return tf.keras.layers.DepthwiseConv2D(layer.node.kernel, **_filters(layer))(inputs[0])


def _filters(layer: Layer) -> dict[str, Any]:
    node = layer.node
    return {"strides": node.stride, "padding": "same", "use_bias": node.bias, "name": node.name}


def _linear(layer: Layer, inputs):
    return tf.keras.layers.Dense(layer.cout, use_bias=layer.node.bias, name=layer.node.name)(inputs[0])


def _pool(layer: Layer, inputs):
    x = tf.keras.layers.AveragePooling2D(layer.in_size, name=layer.node.name)(inputs[0])
    return tf.keras.layers.Flatten()(x)


def _add(layer: Layer, inputs):
    if len(inputs) == 1:  # its other operands are gone; it is here for its activation
        return inputs[0]
    return tf.keras.layers.Add(name=layer.node.name)(inputs)


LAYERS: dict[str, Callable[[Layer, Sequence[Any]], Any]] = {
    "conv": _conv, "depthwise": _depthwise, "linear": _linear, "pool": _pool, "add": _add,
    "dropout": lambda layer, inputs: inputs[0]}  # nothing in inference
FROM_TORCH = {"conv": (2, 3, 1, 0), "depthwise": (2, 3, 0, 1), "linear": (1, 0)}  # axes of the filters
MOST = {"relu": None, "relu6": 6.0}  # what an activation cuts off


def _apply(layer: Layer, inputs):
    node = layer.node
    refuse_beyond_the_basics(node, LAYERS, "a Keras model")
    x = LAYERS[node.kind](layer, inputs)
    if node.bn:
        x = tf.keras.layers.BatchNormalization(epsilon=node.bn_epsilon, name=node.name + "_bn")(x)
    if not node.activation:
        return x
    name = node.name if x is inputs[0] else None  # of an addition that is here for its activation
    return tf.keras.layers.ReLU(max_value=MOST[node.activation], name=name)(x)


def _load(model, layer: Layer, weights: Mapping[str, np.ndarray]) -> None:
    node = layer.node
    if node.kind in FROM_TORCH:
        values = [np.transpose(weights[node.path + ".weight"], FROM_TORCH[node.kind])]
        model.get_layer(node.name).set_weights(values + ([weights[node.path + ".bias"]] if node.bias else []))
    if node.bn:
        model.get_layer(node.name + "_bn").set_weights([weights[f"{node.bn_path}.{k}"] for k in BATCH_NORM])


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
    return converter.convert()
