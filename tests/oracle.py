"""A network pruned by Torch-Pruning and by this project, channel for channel, in a process of its own:

    python -m tests.oracle NAME         # of torchvision, or CifarNet; prints what differs
"""

import json
import sys

import torch
import torch_pruning
from torchvision import models

from model import surgery
from model.torch_net import TorchNet
from model.traced import described
from model.tracing import traced
from tests.nets import CifarNet
from utils.importing import proof
from utils.importing.weights import with_weights

SIDES = {"vgg11_bn": 224}


def main() -> None:
    name = sys.argv[1]
    side = SIDES.get(name, 64)
    torch.manual_seed(0)
    module = (CifarNet("B", blocks=2) if name == "CifarNet" else models.get_model(name, weights=None)).eval()
    generator = torch.Generator().manual_seed(0)
    found = described(traced(module, (side, side)).steps, {})
    proof.seed_anew(module, found.network, generator)
    mine = with_weights(TorchNet, found, {k: v.clone() for k, v in module.state_dict().items()})
    images = proof.random_images(found.network, 2, generator)
    keep, groups = {}, 0
    layers = dict(module.named_modules())
    for group in [g for g in found.network.groups if g.prunable and g.width >= 4]:
        node = found.network.producers(group.name)[0]
        if len(node.channels) > 1:
            continue
        gone = sorted(torch.randperm(group.width, generator=generator)[:group.width // 4].tolist())
        graph = torch_pruning.DependencyGraph().build_dependency(module, example_inputs=images)
        graph.get_pruning_group(layers[node.path], prune_out(layers[node.path]), idxs=gone).prune()
        keep[group.name] = torch.tensor([i for i in range(group.width) if i not in gone])
        groups += 1
    narrow = surgery.slice_channels(mine, keep).eval()
    theirs = module.state_dict()
    with torch.no_grad():
        expected, ours = module(images), narrow(images)
    shapes = [k for k, v in narrow.state_dict().items() if theirs[k].shape != v.shape or not torch.equal(theirs[k], v)]
    print(json.dumps({"groups": groups, "shapes": shapes,
                      "difference": float((expected - ours).abs().max()) / proof.spread(expected)}))


def prune_out(layer):
    linear = isinstance(layer, torch.nn.Linear)
    return torch_pruning.prune_linear_out_channels if linear else torch_pruning.prune_conv_out_channels


if __name__ == "__main__":
    main()
