"""A torch network with its normalisation in front, as files for other runtimes hold it, and the .pt2 file of it."""

import io
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from model.torch_net import TorchNet, below_one_module


class FromPixels(nn.Module):
    """A network with its normalisation in front: [N, channels, height, width] of 0..255 -> [N, num_classes] logits."""

    mean: Tensor  # [1, channels, 1, 1], of pixels in 0..255
    std: Tensor

    def __init__(self, model: TorchNet, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.model = below_one_module(model)
        for name, values in (("mean", mean), ("std", std)):  # of pixels in 0..1, per channel
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1) * 255)

    def forward(self, image: Tensor) -> Tensor:
        return self.model((image - self.mean) / self.std)

    def example(self) -> Tensor:
        """Two images."""
        entry, = self.model.network.inputs
        return torch.zeros(2, self.mean.shape[1], *entry.sides)


def to_pt2(model: TorchNet, mean: Sequence[float], std: Sequence[float], files: Mapping[str, str]) -> bytes:
    """The file that ``torch.export.load`` reads: ``image`` float32 [N, channels, height, width] of 0..255 -> logits
    [N, num_classes], for any N. files: {name: text} of its extra files."""
    whole = FromPixels(model, mean, std).eval()
    program = torch.export.export(whole, (whole.example(),), dynamic_shapes=({0: torch.export.Dim("N")},), strict=False)
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)  # it shows this machine's folders
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files=dict(files))
    return buffer.getvalue()
