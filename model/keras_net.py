"""The Keras model of (network, widths), and its .tflite file through TensorFlow's own converter."""

from typing import Mapping

import numpy as np
import tensorflow as tf

from model.network import BATCH_NORM, BN_EPSILON, Layer, Network, Widths


def build(network: Network, widths: Widths, weights: Mapping[str, np.ndarray],
          num_images: int = 1) -> "tf.keras.Model":
    """``network`` at ``widths`` for batches of ``num_images``: [N, size, size, channels] -> logits [N, classes].

    weights: parameters by name in PyTorch's layouts, as ``network.weight_shapes`` lists them.
    """
    values = {i.name: tf.keras.Input((i.size, i.size, widths[i.group]), batch_size=num_images, name=i.name)
              for i in network.inputs}
    for layer in network.layers(widths):
        values[layer.node.name] = _apply(layer, [values[n] for n in layer.inputs])
    model = tf.keras.Model([values[i.name] for i in network.inputs], values[layer.node.name])
    for layer in network.layers(widths):
        _load(model, layer, weights)
    return model


def _apply(layer: Layer, inputs):
    node = layer.node
    same = dict(strides=node.stride, padding="same", use_bias=node.bias, name=node.name)
    if node.kind == "conv":
        x = tf.keras.layers.Conv2D(layer.cout, node.kernel, **same)(inputs[0])
    elif node.kind == "depthwise":
        x = tf.keras.layers.DepthwiseConv2D(node.kernel, **same)(inputs[0])
    elif node.kind == "linear":
        x = tf.keras.layers.Dense(layer.cout, use_bias=node.bias, name=node.name)(inputs[0])
    elif node.kind == "pool":
        x = tf.keras.layers.Flatten()(tf.keras.layers.AveragePooling2D(layer.in_size, name=node.name)(inputs[0]))
    else:
        x = tf.keras.layers.Add(name=node.name)(inputs)
    if node.bn:
        x = tf.keras.layers.BatchNormalization(epsilon=BN_EPSILON, name=node.name + "_bn")(x)
    return tf.keras.layers.ReLU()(x) if node.relu else x


def _load(model, layer: Layer, weights: Mapping[str, np.ndarray]) -> None:
    node = layer.node
    axes = {"conv": (2, 3, 1, 0), "depthwise": (2, 3, 0, 1), "linear": (1, 0)}.get(node.kind)
    if axes:
        values = [np.transpose(weights[node.name + ".weight"], axes)]
        model.get_layer(node.name).set_weights(values + ([weights[node.name + ".bias"]] if node.bias else []))
    if node.bn:
        model.get_layer(node.name + "_bn").set_weights(
            [weights[f"{node.name}_bn.{k}"] for k in BATCH_NORM])


def to_tflite(model) -> bytes:
    """Convert with TensorFlow's converter, float32, its default optimisations."""
    return tf.lite.TFLiteConverter.from_keras_model(model).convert()
