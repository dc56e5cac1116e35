"""What an import found, in words and as JSON: groups and what they tie, what is locked and why, sizes, the proof."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import isnan
from typing import Any

from model.network import Network
from model.operators import OPERATORS
from model.traced import Described
from utils.importing.proof import Proof


@dataclass(frozen=True)
class Report:
    described: Described
    proof: Proof

    @property
    def network(self) -> Network:
        return self.described.network

    def as_dict(self) -> dict[str, Any]:
        network, reasons = self.network, self.described.reasons
        return {"parameters": network.parameter_count(network.full_widths),
                "macs": network.multiply_adds(network.full_widths), "max_difference": self.proof.max_difference,
                "sliced_vs_zeroed": None if isnan(self.proof.sliced_vs_zeroed) else self.proof.sliced_vs_zeroed,
                "prunable_share": prunable_share(network),
                "reordered": sorted(self.described.orders),
                "groups": [{"name": g.name, "width": g.width, "prunable": g.prunable, "removable": g.removable,
                            "reason": reasons.get(g.name), "layers": layers}
                           for g, layers in zip(network.groups, tied(network).values())]}

    def lines(self) -> Iterator[str]:
        network = self.network
        layers = tied(network)
        column = max(len(g.name) for g in network.groups) + 1
        yield f"{'group':<{column}}{'width':>6}  removable  layers"
        for group in (g for g in network.groups if g.prunable):
            yield (f"{group.name:<{column}}{group.width:>6}  {'yes' if group.removable else '':<9}  "
                   + ", ".join(layers[group.name]))
        yield "not prunable:"
        for group in (g for g in network.groups if not g.prunable):
            yield (f"{group.name:<{column}}{group.width:>6}  {self.described.reasons.get(group.name, '')}"
                   + (f": {', '.join(layers[group.name])}" if layers[group.name] else ""))
        yield (f"{network.parameter_count(network.full_widths):,} parameters, "
               f"{network.multiply_adds(network.full_widths):,} multiply-adds (MACs) for an image; "
               f"{prunable_share(network):.1%} of the layers' output channels can be pruned")
        if self.described.orders:
            yield (f"note: {len(self.described.orders)} parameters have their channels in another order than in the "
                   "module, so that channels need no shuffling at run time")
        yield from self.proof.lines()


def tied(network: Network) -> dict[str, list[str]]:
    """{group: paths of the layers that lose outputs together with it}."""
    found: dict[str, list[str]] = {g.name: [] for g in network.groups}
    for node in network.nodes:
        if OPERATORS[node.kind].counted:
            for segment in dict.fromkeys(network.tensors[node.name].channels):
                if node.path not in found[segment.group]:
                    found[segment.group].append(node.path)
    return found


def prunable_share(network: Network) -> float:
    """Of the output channels of convolutions and hidden linear layers; the classifier does not count."""
    classes = {s.group for s in network.tensors[network.output].channels}
    widths, prunable, total = network.full_widths, 0, 0
    for node in network.nodes:
        segments = network.tensors[node.name].channels
        if OPERATORS[node.kind].counted and not classes.issuperset(s.group for s in segments):
            total += sum(widths[s.group] * s.repeat for s in segments)
            prunable += sum(widths[s.group] * s.repeat for s in segments if network.group[s.group].prunable)
    return prunable / total if total else 0.0
