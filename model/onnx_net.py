"""The ONNX file of a torch network, through torch's own exporter."""

import io
from collections.abc import Mapping, Sequence

import onnx
import torch

from model.pixels import FromPixels
from model.torch_net import TorchNet


def to_onnx(model: TorchNet, mean: Sequence[float], std: Sequence[float], about: Mapping[str, str],
            opset: int) -> bytes:
    """The ONNX file: ``image`` float32 [N, channels, height, width] of 0..255 -> ``logits`` float32 [N, num_classes].

    N is any number of images. about: {key: text} for the file's metadata; opset: version of the operators.
    """
    whole = FromPixels(model, mean, std).eval()
    program = torch.onnx.export(whole, (whole.example(),), dynamo=True, verbose=False, opset_version=opset,
                                input_names=["image"], output_names=["logits"],
                                dynamic_shapes=({0: torch.export.Dim("N")},))
    assert program is not None, "the exporter gives a program where dynamo=True"
    content = program.model_proto
    found = next(o.version for o in content.opset_import if o.domain in ("", "ai.onnx"))
    if found != opset:
        raise ValueError(f"torch's exporter gives opset {found}, and cannot convert it to {opset}")
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
