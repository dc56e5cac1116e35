"""Slicing a network into a narrower one. The network that is given is never changed."""

from collections.abc import Mapping

from torch import Tensor

from model.network import Network
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
    network, state = model.network, model.state_dict()
    for group, index in keep.items():
        width = model.widths.get(group)
        if width is None:
            raise ValueError(f"{group}: not a group of this network")
        if len(index) and (index.min() < 0 or index.max() >= width or len(index.unique()) < len(index)):
            raise ValueError(f"{group}: expected different channels in 0..{width - 1}, found {index.tolist()}")
    widths = dict(model.widths, **{g: len(i) for g, i in keep.items()})
    narrow = TorchNet(network, widths).to(model.device)
    narrow.load_state_dict(_sliced(network, narrow, state, keep))
    return narrow


def _sliced(network: Network, narrow: TorchNet, state: Mapping[str, Tensor], keep: Keep) -> dict[str, Tensor]:
    sliced = {}
    for layer in narrow.layers:
        node = layer.node
        for name in [n for n in state if n.startswith((node.name + ".", node.name + "_bn."))]:
            value = state[name]
            if value.dim() > 0 and node.group in keep:  # outputs; a batch norm counts its batches in a scalar
                value = value[keep[node.group].to(value.device)]
            read = network.group_of[node.inputs[0]]
            if value.dim() > 1 and node.kind in ("conv", "linear") and read in keep:  # inputs
                value = value[:, keep[read].to(value.device)]
            sliced[name] = value
    return sliced
