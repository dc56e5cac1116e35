"""Slicing a network into a narrower one. The network that is given is never changed."""

from collections.abc import Mapping

import torch
from torch import Tensor

from model.operators import Channels, Widths, parameters_of
from model.torch_net import TorchNet

Keep = Mapping[str, Tensor]  # {group: sorted indices of the channels that stay}, int64


def best_channels(scores: Tensor, width: int) -> Tensor:
    """Indices of the ``width`` highest scores, in ascending order; of equal scores the first stays."""
    return scores.argsort(descending=True, stable=True)[:width].sort().values


def slice_channels(model: TorchNet, keep: Keep) -> TorchNet:
    """A new network that has only the channels ``keep`` of these groups; an empty index removes the branch.

    Weights, biases and batch-norm statistics are sliced, on the model's device. Raises ValueError for an unknown
    group, an index out of range or given twice, or widths that the network does not allow.
    """
    state = model.state_dict()
    for group, index in keep.items():
        width = model.widths.get(group)
        if width is None:
            raise ValueError(f"{group}: not a group of this network")
        if len(index) and (index.min() < 0 or index.max() >= width or len(index.unique()) < len(index)):
            raise ValueError(f"{group}: expected different channels in 0..{width - 1}, found {index.tolist()}")
    widths = dict(model.widths, **{g: len(i) for g, i in keep.items()})
    narrow = TorchNet(model.network, widths).to(model.device)
    narrow.load_state_dict(sliced(narrow, state, keep, model.widths))
    return narrow


def sliced(narrow: TorchNet, state: Mapping[str, Tensor], keep: Keep, widths: Widths) -> dict[str, Tensor]:
    """The parameters and statistics of ``narrow``, from those of a network of these widths."""
    network = narrow.network
    found = {name: state[name] for name in narrow.state_dict()}  # a batch norm counts its batches in a scalar
    for layer in narrow.layers:
        node = layer.node
        written, read = (network.tensors[name].channels for name in (node.name, node.inputs[0]))
        for name, weight in parameters_of(node, layer.cin, layer.cout).items():
            for axis, channels in ((weight.out_axis, written), (weight.in_axis, read)):
                if axis is not None and any(s.group in keep for s in channels):
                    index = channel_index(channels, keep, widths).to(found[name].device)
                    found[name] = found[name].index_select(axis, index)
    return found


def channel_index(channels: Channels, keep: Keep, widths: Widths) -> Tensor:
    """Indices of a tensor's channels that stay: the units ``keep``, and other groups whole; widths: before."""
    found, first = [], 0
    for group, repeat in channels:
        units = keep.get(group, torch.arange(widths[group])).cpu()
        found.append((first + units[:, None] * repeat + torch.arange(repeat)).flatten())
        first += widths[group] * repeat
    return torch.cat(found)
