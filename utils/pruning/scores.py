"""How much each channel matters, by several measures of the literature.

Several layers may write a channel's group; its score counts all of them. The Taylor and Fisher scores estimate how the
loss changes if the channel is removed. For this, every convolution or linear layer that mixes channels reads the
channel times a gate of 1. The scores come from the derivatives of the loss with respect to the gates.
"""

from collections.abc import Iterable, Sequence
from typing import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from model.network import Layer
from model.operators import Channels, Widths, parameters_of
from model.torch_net import TorchNet

Scores = dict[str, Tensor]  # {prunable group: [width], larger is better}
Batches = Iterable[tuple[Tensor, Tensor]]  # normalised images [N, C, H, W] and labels [N], on the model's device

DATA_BATCHES = 10  # batches for the methods that need images


def channel_scores(model: TorchNet, method: str, batches: Batches, generator: torch.Generator) -> Scores:
    """Scores of the channels of every prunable group that is left, by one of settings.SCORES.

    Only the methods in FROM_SLOPES read ``batches``; ``generator`` is for random scores.
    """
    groups = [g.name for g in model.network.groups if g.prunable and model.widths[g.name]]
    if method in FROM_SLOPES:
        return _from_slopes(model, FROM_SLOPES[method], groups, batches)
    return {group: FROM_WEIGHTS[method](model, group, generator) for group in groups}


# --- from the weights of a group -------------------------------------------------------------------------------

def filter_norms(model: TorchNet, group: str) -> Tensor:
    """L2 norm of each channel's filters: the mean over all live layers that write it, a stream's skip included."""
    alive = {layer.node.name for layer in model.layers}
    norms = [_of_units(model.weight(node.name).detach(), node.channels, group, model.widths).norm(dim=1)
             for node in model.network.producers(group) if node.name in alive]
    if not norms:  # its branch is gone with another group
        return torch.zeros(model.widths[group], device=model.device)
    return torch.stack(norms).mean(0)


def _of_units(weight: Tensor, channels: Channels, group: str, widths: Widths) -> Tensor:
    """The part of a weight, [channels, ...], that belongs to each unit of the group: [units, values]."""
    parts, first = [], 0
    for name, repeat in channels:
        last = first + widths[name] * repeat
        if name == group:
            parts.append(weight[first:last].reshape(widths[name], -1))
        first = last
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _batch_norm_scales(model: TorchNet, group: str) -> Tensor:
    """Absolute scale of each channel's batch norms, the mean over all of them; without any, the filters' norm."""
    scales = []
    for layer in model.layers:
        channels = model.network.tensors[layer.node.name].channels
        if any(s.group == group for s in channels):
            scales += [_of_units(norm.weight.detach().abs(), channels, group, model.widths).mean(1)
                       for norm in model.batch_norms(layer)]
    if not scales:  # a stream whose blocks are all removed: its bare skip is left
        return filter_norms(model, group)
    return torch.stack(scales).mean(0)


FROM_WEIGHTS: dict[str, Callable[[TorchNet, str, torch.Generator], Tensor]] = {
    "l2": lambda model, group, generator: filter_norms(model, group),  # NetAdapt, arXiv 1804.03230, section 3.3
    "bn": lambda model, group, generator: _batch_norm_scales(model, group),  # arXiv 1708.06519
    "random": lambda model, group, generator: torch.rand(model.widths[group], generator=generator),
}


# --- from the slopes of the loss -------------------------------------------------------------------------------

FROM_SLOPES: dict[str, Callable[[Tensor], Tensor]] = {  # of the loss's derivatives by gates, [N, width]
    "taylor": lambda slope: slope.abs(),  # the loss's first-order change, arXiv 1611.06440
    # its second-order change by the empirical Fisher information, 1801.05787
    "fisher": lambda slope: slope.square() / 2,
}


def _from_slopes(model: TorchNet, score: Callable[[Tensor], Tensor], groups: Sequence[str], batches: Batches) -> Scores:
    model.eval()
    totals, count = {group: torch.zeros(model.widths[group], device=model.device) for group in groups}, 0
    for images, labels in batches:
        for group, slope in _gate_slopes(model, groups, images, labels).items():
            totals[group] += score(slope).sum(0)
        count += len(labels)
    return {group: total / count for group, total in totals.items()}


def _gate_slopes(model: TorchNet, groups: Sequence[str], images: Tensor, labels: Tensor) -> Scores:
    """The derivatives of every image's loss with respect to its channels' gates: {group: [N, width]}."""
    gates = {group: torch.ones(len(labels), model.widths[group], device=images.device, requires_grad=True)
             for group in groups}
    values = {model.network.inputs[0].name: images}
    for number, layer in enumerate(model.layers):
        after = model.advance({**values, **_gated(model, layer, values, gates)}, number, number + 1)
        values = {name: values.get(name, value) for name, value in after.items()}  # others read it without the gate
    loss = F.cross_entropy(values[model.layers[-1].node.name], labels, reduction="sum")
    slopes = torch.autograd.grad(loss, [gates[group] for group in groups], allow_unused=True)
    return {group: torch.zeros_like(gates[group]) if slope is None else slope  # gone with another group
            for group, slope in zip(groups, slopes)}


def _gated(model: TorchNet, layer: Layer, values: dict[str, Tensor], gates: Scores) -> dict[str, Tensor]:
    """The layer's gated input, {name: tensor}; {} if the layer only passes channels on, as an addition, a pool or a
    depthwise convolution does."""
    weights = parameters_of(layer.node, layer.cin, layer.cout).values()
    if not any(weight.in_axis is not None for weight in weights):
        return {}
    (name,) = layer.inputs
    channels, x = model.network.tensors[layer.node.inputs[0]].channels, values[name]
    if not any(s.group in gates for s in channels):
        return {}
    parts = [gates[group].repeat_interleave(repeat, 1) if group in gates and repeat > 1 else gates[group]
             if group in gates else torch.ones(len(x), model.widths[group] * repeat, device=x.device)
             for group, repeat in channels]
    gate = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
    return {name: x * gate.view(*gate.shape, *[1] * (x.dim() - 2))}
