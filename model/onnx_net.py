"""The ONNX file of a torch network, through torch's own exporter."""

import io
from collections.abc import Mapping, Sequence

import onnx
import torch
from torch import Tensor, nn

from model.torch_net import TorchNet


class FromPixels(nn.Module):
    """A network with its normalisation in front: [N, channels, size, size] of 0..255 -> [N, num_classes] logits."""

    mean: Tensor  # [1, channels, 1, 1], of pixels in 0..255
    std: Tensor

    def __init__(self, model: TorchNet, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.model = model
        for name, values in (("mean", mean), ("std", std)):  # of pixels in 0..1, per channel
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1) * 255)

    def forward(self, image: Tensor) -> Tensor:
        return self.model((image - self.mean) / self.std)


def to_onnx(model: TorchNet, mean: Sequence[float], std: Sequence[float], about: Mapping[str, str]) -> bytes:
    """The ONNX file: ``image`` float32 [N, channels, size, size] of 0..255 -> ``logits`` float32 [N, num_classes].

    N is any number of images. about: {key: text} for the file's metadata.
    """
    whole, (entry,) = FromPixels(model, mean, std).eval(), model.network.inputs
    example = torch.zeros(2, len(mean), *entry.sides)
    program = torch.onnx.export(whole, (example,), dynamo=True, verbose=False, input_names=["image"],
                                output_names=["logits"], dynamic_shapes=({0: torch.export.Dim("N")},))
    assert program is not None, "the exporter gives a program where dynamo=True"
    content = program.model_proto
    _forget_sources(content)
    for key, value in about.items():
        content.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(content)
    buffer = io.BytesIO()
    onnx.save(content, buffer)
    return buffer.getvalue()


def _forget_sources(content: onnx.ModelProto) -> None:
    """Remove what shows this machine: the exporter's stack traces of every node, with paths of source files."""
    for graph in (content.graph, *content.functions):
        for part in (graph, *graph.node, *graph.value_info):
            del part.metadata_props[:]
        for node in graph.node:
            node.doc_string = ""
