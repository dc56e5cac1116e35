"""The PyTorch module of (network, widths). Module and parameter names are the layer names of the description."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any, Callable, Optional, Union, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.architectures import describe
from model.network import Layer, Network, Widths
from model.operators import OPERATORS, Node, Padding, count, pair, parameters_of, same_padding

BatchNorm = Union[nn.BatchNorm1d, nn.BatchNorm2d]


class Conv2d(nn.Conv2d):
    """A convolution with explicit padding, or padded like TensorFlow's SAME, so that the exported network needs no
    padding operator.

    SAME is the usual padding for odd kernels and stride 1; at stride 2 the odd pixel goes to the right and below.
    A strided 1x1 convolution reads every stride-th pixel, so it runs as an unstrided one on those pixels, with the
    same result. This avoids a bug of torch 2.14 on a CPU: the weight gradient of the strided one writes out of bounds
    for channels-last weights of fewer than 8 input channels.
    """

    def __init__(self, cin: int, cout: int, node: Node, groups: int = 1):
        """node: the kernel, the stride, the dilation, the padding and whether there is a bias."""
        super().__init__(cin, cout, pair(node.kernel), pair(node.stride), 0, pair(node.dilation), groups, node.bias)
        self.node = node

    def forward(self, input: Tensor) -> Tensor:  # [N, cin, H, W] -> [N, cout, height, width]
        x, node = input, self.node
        sides = x.shape[-2], x.shape[-1]
        before = same_padding(node, sides) if node.padding is None else node.padding
        if self.kernel_size == (1, 1) and not any(before):
            x = _every(x, pair(node.stride)) if self.training else x[:, :, ::self.stride[0], ::self.stride[1]]
            return F.conv2d(x, self.weight, self.bias, 1, 0, 1, self.groups)
        top, bottom, left, right = before
        if (top, left) == (bottom, right):
            return F.conv2d(x, self.weight, self.bias, self.stride, (top, left), self.dilation, self.groups)
        x = F.pad(x, (left, right, top, bottom))
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class TorchNet(nn.Module):
    """``network`` at ``widths``: [N, channels, height, width] normalised images -> [N, num_classes] logits."""

    def __init__(self, network: Network, widths: Widths):
        super().__init__()
        self.network, self.widths = network, dict(widths)
        self.layers = network.layers(widths)
        self._own: dict[str, Any] = {}  # {layer: its module, or where its parameter is}, wherever it is registered
        self._norms: dict[str, BatchNorm] = {}  # {layer: the batch norm behind it}
        self._fresh = {layer.node.name for layer in self.layers if _is_fresh(layer)}
        for layer in self.layers:
            node, flat = layer.node, network.tensors[layer.node.name].flat
            make = MODULES.get(node.kind)
            if make is not None:
                self._own[node.name] = _register(self, node.path, make(layer, flat))
            if node.bn:
                self._norms[node.name] = _register(self, node.bn_path, _batch_norm(layer, flat))
        self._last_reader = {name: layer.node.name for layer in self.layers for name in layer.inputs}

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def modules_of(self, layer: Layer) -> list[nn.Module]:
        """The modules of a layer: the one that it is, and the batch norm behind it."""
        found = [self._own.get(layer.node.name), self._norms.get(layer.node.name)]
        return [m for m in found if isinstance(m, nn.Module)]

    def batch_norms(self, layer: Layer) -> list[BatchNorm]:
        """The batch norms of a layer: the one that it is, and the one behind it."""
        return [m for m in self.modules_of(layer) if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]

    def weight(self, layer: str) -> Tensor:
        """The filters of a layer, [cout, cin, height, width], or [cout, cin] of a linear one."""
        return self._own[layer].weight

    def forward(self, *images: Tensor) -> Tensor:
        values = self.advance({i.name: x for i, x in zip(self.network.inputs, images)}, 0, len(self.layers))
        return values[self.layers[-1].node.name]

    def advance(self, values: dict[str, Tensor], first: int, last: int) -> dict[str, Tensor]:
        """Run layers ``first`` to ``last`` - 1: the live tensors before them, {name: tensor}, to those after them."""
        values = dict(values)
        for layer in self.layers[first:last]:
            name = layer.node.name
            values[name] = self._run(layer, [values[n] for n in layer.inputs])
            for read in set(layer.inputs):  # free what no later layer reads
                if self._last_reader[read] == name:
                    del values[read]
        return values

    def _run(self, layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
        node = layer.node
        run = RUN.get(node.kind)
        x = self._own[node.name](inputs[0]) if run is None else run(self, layer, inputs)
        if node.bn:
            x = self._norms[node.name](x)
        if node.activation == "relu" and node.name in self._fresh:
            return F.relu_(x)
        return _activated(node, x) if node.activation else x


def restored(content: Mapping[str, Any]) -> TorchNet:
    """The network of a checkpoint's content, with its weights: ``restored(torch.load(path, weights_only=True))``.

    An ``nn.Module`` like any other: to train on in a loop of your own, say. Raises ValueError, TypeError or
    RuntimeError where the content contradicts itself.
    """
    model = TorchNet(describe(**content["arguments"]), content["widths"])
    model.load_state_dict(content["state_dict"])
    return model


def below_one_module(model: TorchNet) -> TorchNet:
    """The same network, on the same weights, with all its modules below one, ``net``, in eval mode.

    torch's exporters look modules up as attributes, and a user's may have the name of an attribute of TorchNet, such as
    ``layers``.
    """
    network = model.network
    nodes = tuple(replace(n, module=f"net.{n.path}", bn_module=f"net.{n.bn_path}") for n in network.nodes)
    with torch.device("meta"):  # nothing is initialised
        found = TorchNet(replace(network, nodes=nodes), model.widths)
    found.load_state_dict({f"net.{name}": value for name, value in model.state_dict().items()}, assign=True)
    return found.eval()


def _is_fresh(layer: Layer) -> bool:
    """Whether what it computes before its activation is a tensor that nobody else has."""
    summed = OPERATORS[layer.node.kind].needs == "any" and len(layer.inputs) > 1
    return summed or bool(parameters_of(layer.node, layer.cin, layer.cout))


def _register(net: nn.Module, path: str, made: Any) -> Any:
    """Put a module or a parameter at ``path``, such as layer1.0.conv2, whatever attributes ``net`` has.

    Returns the module; of a parameter (the module that holds it, its name there).
    """
    *parents, name = path.split(".")
    for parent in parents:
        net._modules.setdefault(parent, nn.Module())  # it only holds others
        net = cast(nn.Module, net._modules[parent])
    if isinstance(made, nn.Parameter):
        net._parameters[name] = made
        return net, name  # where it is found, since loading weights or tracing may put another one there
    holder = net._modules.get(name)
    if holder is not None:  # of modules below it
        made._modules.update(holder._modules)
    net._modules[name] = made
    return made


def weights_of(model: nn.Module):
    """The parameters and statistics as NumPy arrays by name, in torch's layouts, for the writers of other formats."""
    return {name: value.detach().cpu().numpy() for name, value in model.state_dict().items()
            if value.dtype != torch.int64}


# --- operators with weights: a layer, and whether its tensors are vectors -> the module or parameter that it has ----

def _conv(layer: Layer, flat: bool) -> nn.Module:
    node = layer.node
    return _filters(layer, layer.cout // node.channels[0].repeat if node.grouped else 1)


def _depthwise(layer: Layer, flat: bool) -> nn.Module:
    return _filters(layer, layer.cin)


def _filters(layer: Layer, groups: int) -> nn.Module:
    """Freshly initialised (He et al., arXiv 1502.01852, fan-out)."""
    module = Conv2d(layer.cin, layer.cout, layer.node, groups)
    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module


def _linear(layer: Layer, flat: bool) -> nn.Module:
    module = nn.Linear(layer.cin, layer.cout, bias=layer.node.bias)
    if layer.node.bias:
        nn.init.zeros_(module.bias)
    return module


def _batch_norm(layer: Layer, flat: bool) -> nn.Module:
    kind = nn.BatchNorm1d if flat else nn.BatchNorm2d
    return kind(layer.cout, eps=layer.node.bn_epsilon, momentum=layer.node.bn_momentum)


MODULES: dict[str, Callable[[Layer, bool], Union[nn.Module, nn.Parameter]]] = {
    "conv": _conv, "depthwise": _depthwise, "linear": _linear, "batch_norm": _batch_norm,
    "layer_norm": lambda layer, flat: nn.LayerNorm(layer.cout, eps=layer.node.bn_epsilon),
    "scale": lambda layer, flat: nn.Parameter(torch.ones(layer.cout)),
    "dropout": lambda layer, flat: nn.Dropout(layer.node.rate)}


# --- operators that are no module: the network, a layer and what it reads -> its output -------------------------

def _scale(net: TorchNet, layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    holder, name = net._own[layer.node.name]
    return inputs[0] * holder._parameters[name].view(-1, *[1] * (inputs[0].dim() - 2))


def _add(net: TorchNet, layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    return reduce(torch.add, inputs)


def _multiply(net: TorchNet, layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    if len(inputs) == 1:  # without its gate
        return inputs[0]
    x, gate = inputs
    return x * gate.view(*gate.shape, *[1] * (x.dim() - gate.dim()))


def _concat(net: TorchNet, layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(inputs), 1)


def _split(net: TorchNet, layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    before = net.network.tensors[layer.node.inputs[0]].channels[:layer.node.part[0]]
    return inputs[0].narrow(1, count(before, net.widths), layer.cout)


def _shuffle(net: TorchNet, layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    return inputs[0].unflatten(1, (layer.node.blocks, -1)).transpose(1, 2).flatten(1, 2)


def _pool(net: TorchNet, layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    return inputs[0].mean((2, 3))


def _max_pool(net: TorchNet, layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    node = layer.node
    x, padding = _padded(inputs[0], node.padding, float("-inf"))
    return F.max_pool2d(x, pair(node.kernel), pair(node.stride), padding, pair(node.dilation), node.ceil_mode)


def _average_pool(net: TorchNet, layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    node = layer.node
    x, padding = _padded(inputs[0], node.padding, 0.0)
    return F.avg_pool2d(x, pair(node.kernel), pair(node.stride), padding, node.ceil_mode, node.count_include_pad)


def _padded(x: Tensor, padding: Optional[Padding], value: float) -> tuple[Tensor, tuple[int, int]]:
    """The tensor, padded where the two ends of a side differ, and how much is left to pad at either end."""
    top, bottom, left, right = padding or (0, 0, 0, 0)
    if (top, left) == (bottom, right):
        return x, (top, left)
    return F.pad(x, (left, right, top, bottom), value=value), (0, 0)


def _pad(net: TorchNet, layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    top, bottom, left, right = layer.node.padding or (0, 0, 0, 0)
    return F.pad(inputs[0], (left, right, top, bottom))


def _pad_channels(net: TorchNet, layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    node, widths = layer.node, net.widths
    before, behind = count(node.channels[:node.part[0]], widths), count(node.channels[node.part[1]:], widths)
    return F.pad(inputs[0], (0, 0, 0, 0, before, behind))


def _linear_at_pixels(net: TorchNet, layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    return _at_pixels(net._own[layer.node.name], inputs[0])


def _at_pixels(module: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """What a module for vectors makes of every pixel of a map, or of a vector."""
    return module(x) if x.dim() == 2 else module(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


RUN: dict[str, Callable[[TorchNet, Layer, Sequence[Tensor]], Tensor]] = {
    "add": _add, "multiply": _multiply, "concat": _concat, "split": _split, "shuffle": _shuffle, "pool": _pool,
    "max_pool": _max_pool, "average_pool": _average_pool, "pad": _pad, "scale": _scale,
    "pad_channels": _pad_channels, "linear": _linear_at_pixels, "layer_norm": _linear_at_pixels,
    "activation": lambda net, layer, inputs: inputs[0],  # it follows, as behind every node
    "flatten": lambda net, layer, inputs: inputs[0].flatten(1),
    "adaptive_average_pool": lambda net, layer, inputs: F.adaptive_avg_pool2d(inputs[0], pair(layer.node.size)),
    "adaptive_max_pool": lambda net, layer, inputs: F.adaptive_max_pool2d(inputs[0], pair(layer.node.size)),
}

ACTIVATE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu, "relu6": F.relu6, "sigmoid": torch.sigmoid, "hard_sigmoid": F.hardsigmoid,
    "hard_swish": F.hardswish, "silu": F.silu, "gelu": F.gelu}


def _activated(node: Node, x: Tensor) -> Tensor:
    if node.activation == "leaky_relu":
        return F.leaky_relu(x, node.slope)
    return ACTIVATE[node.activation](x)


def _every(x: Tensor, stride: tuple[int, int]) -> Tensor:
    """Every stride-th pixel, with a gradient laid out like x: another layout slows all layers before this one."""
    down, right = stride
    if x.is_contiguous(memory_format=torch.channels_last):
        return x.permute(0, 2, 3, 1)[:, ::down, ::right].permute(0, 3, 1, 2)
    return x[:, :, ::down, ::right]
