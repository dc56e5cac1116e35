"""A network of which only the last layers learn."""

import torch
from torch import Tensor, nn

from model.torch_net import TorchNet


class Tail(nn.Module):
    """``net``, whose layers before number ``first`` stay as they are: they get no gradient, and their batch norms use
    their statistics and measure none.

    An optimizer of all parameters leaves those alone, as it skips what has no gradient.
    """

    def __init__(self, net: TorchNet, first: int):
        super().__init__()
        self.net, self.first = net, first

    def train(self, mode: bool = True) -> "Tail":
        super().train(mode)
        for layer in self.net.layers[:self.first]:
            for module in self.net.modules_of(layer):
                module.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:  # [N, channels, height, width] -> [N, num_classes]
        (image,) = self.net.network.inputs
        with torch.no_grad():
            values = self.net.advance({image.name: images}, 0, self.first)
        (logits,) = self.net.advance(values, self.first, len(self.net.layers)).values()
        return logits
