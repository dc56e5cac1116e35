"""The PyTorch module of (network, widths). Module and parameter names are the layer names of the description."""


from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.network import BN_EPSILON, Layer, Network, Widths


class SameConv2d(nn.Conv2d):
    """A convolution padded like TensorFlow's SAME, so that the exported network needs no padding operator.

    For odd kernels and stride 1 this is the usual padding; at stride 2 the odd pixel goes to the right and below.
    A strided 1x1 convolution reads every stride-th pixel, so it runs as an unstrided one on those pixels, with the
    same result. This avoids a bug of torch 2.14 on a CPU: the weight gradient of the strided one writes out of bounds
    for channels-last weights of fewer than 8 input channels.
    """

    def forward(self, input: Tensor) -> Tensor:  # [N, cin, H, W] -> [N, cout, ceil(H / stride), ceil(W / stride)]
        x, kernel, stride, side = input, self.kernel_size[0], self.stride[0], input.shape[-1]
        if kernel == 1:
            x = _every(x, stride) if self.training else x[:, :, ::stride, ::stride]
            return F.conv2d(x, self.weight, self.bias, 1, 0, 1, self.groups)
        pad = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        before, after = pad // 2, pad - pad // 2
        if before == after:
            return F.conv2d(x, self.weight, self.bias, stride, before, 1, self.groups)
        x = F.pad(x, (before, after, before, after))
        return F.conv2d(x, self.weight, self.bias, stride, 0, 1, self.groups)


class TorchNet(nn.Module):
    """``network`` at ``widths``: [N, channels, size, size] normalised images -> [N, num_classes] logits."""

    def __init__(self, network: Network, widths: Widths):
        super().__init__()
        self.network, self.widths = network, dict(widths)
        self.layers = network.layers(widths)
        for layer in self.layers:
            module = _filters(layer)
            if module is not None:
                self.add_module(layer.node.name, module)
            if layer.node.bn:
                self.add_module(layer.node.name + "_bn", nn.BatchNorm2d(layer.cout, eps=BN_EPSILON))
        self._last_reader = {name: layer.node.name for layer in self.layers for name in layer.inputs}

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

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
        if node.kind == "add":
            x = reduce(torch.add, inputs)
        elif node.kind == "pool":
            x = inputs[0].mean((2, 3))
        else:
            x = getattr(self, node.name)(inputs[0])
        if node.bn:
            x = getattr(self, node.name + "_bn")(x)
        return F.relu_(x) if node.relu else x


def _every(x: Tensor, stride: int) -> Tensor:
    """x[:, :, ::stride, ::stride], with a gradient laid out like x: another layout slows all layers before this one."""
    if x.is_contiguous(memory_format=torch.channels_last):
        return x.permute(0, 2, 3, 1)[:, ::stride, ::stride].permute(0, 3, 1, 2)
    return x[:, :, ::stride, ::stride]


def _filters(layer: Layer):
    """The module that holds the layer's weights, freshly initialised (He et al., fan-out), or None."""
    node = layer.node
    if node.kind == "linear":
        module = nn.Linear(layer.cin, layer.cout, bias=node.bias)
    elif node.kind in ("conv", "depthwise"):
        groups = layer.cin if node.kind == "depthwise" else 1
        module = SameConv2d(layer.cin, layer.cout, node.kernel, node.stride, groups=groups, bias=node.bias)
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    else:
        return None
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module


def weights_of(model: nn.Module):
    """The parameters and statistics as NumPy arrays by name, in torch's layouts, for the writers of other formats."""
    return {name: value.detach().cpu().numpy() for name, value in model.state_dict().items()
            if value.dtype != torch.int64}
