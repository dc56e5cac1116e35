"""The whole network with channels at zero: what surgery.py is held to (the first law of docs/design.md)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from model.network import Layer
from model.operators import OPERATORS, count
from model.surgery import Keep, channel_index
from model.torch_net import TorchNet


class Zeroed(TorchNet):
    """The unpruned network with all channels outside ``keep`` at zero, and branches without channels gone."""

    keep: Keep = {}
    dead: frozenset[str] = frozenset()

    def without(self, keep: Keep) -> "Zeroed":
        """This network with these units left of each group; an empty index removes what hangs on the group."""
        network, widths = self.network, {**self.widths, **{g: len(index) for g, index in keep.items()}}
        dead: set[str] = set()
        for node in network.nodes:
            gone = [name in dead for name in node.inputs]
            needs = OPERATORS[node.kind].needs
            needed = {"all": any(gone), "any": all(gone), "parts": all(gone), "first": gone[0]}[needs]
            if needed or not count(network.tensors[node.name].channels, widths):
                dead.add(node.name)
        self.keep, self.dead = keep, frozenset(dead)
        return self

    def _run(self, layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
        node = layer.node
        if node.kind == "multiply" and node.inputs[1] in self.dead:
            inputs = [inputs[0], torch.ones_like(inputs[1])]
        x = super()._run(layer, inputs)
        mask = torch.zeros(x.shape[1], dtype=x.dtype)
        if node.name not in self.dead:
            mask[channel_index(self.network.tensors[node.name].channels, self.keep, self.widths)] = 1
        return x * mask.view(1, -1, *[1] * (x.dim() - 2))
