"""Operators in words that a person reads, for pictures. ``model/timed.py`` makes their keys."""

from typing import Union

from model.operators import Node, Sides, pair
from model.timed import FOLDING, Table

KINDS = {"conv": "convolution", "depthwise": "depthwise convolution", "linear": "linear layer", "add": "addition",
         "multiply": "product", "concat": "concatenation", "pool": "mean over the map", "pad": "zero padding",
         "shuffle": "channel shuffle", "pad_channels": "padding with channels", "scale": "scale per channel"}
ACTIVATIONS = {"relu": "ReLU", "relu6": "ReLU6", "silu": "SiLU", "gelu": "GELU", "leaky_relu": "leaky ReLU"}
WITH_KERNEL = ("conv", "depthwise", "max_pool", "average_pool")


def kind_in_words(node: Node) -> str:
    """3×3 convolution."""
    kernel = f"{_by(pair(node.kernel))} " if node.kind in WITH_KERNEL else ""
    return kernel + KINDS.get(node.kind, node.kind.replace("_", " "))


def table_in_words(table: Table) -> str:
    """3×3 convolution, stride 2, padding 1, from 3 channels, at 224×224, ReLU6.

    A table that an architecture names has its key.
    """
    node, (first, *others), repeat = table.node, table.reads, table.reads[0].channels[0].repeat
    if node.table is not None:
        return table.key
    operands = "" if not others else f" of {len(table.reads)}" if node.kind != "multiply" else (
        "" if others[0].sides == first.sides else " by a gate")
    words = [
        kind_in_words(node) + operands,
        _unless((1, 1), "stride", node.stride), _unless((1, 1), "dilation", node.dilation), _padding(node),
        f"groups of {repeat} to {node.channels[0].repeat} channels" if node.grouped else "",
        f"{node.multiplier} outputs per input" if node.multiplier > 1 else "",
        f"{node.blocks} blocks" if node.blocks > 1 else "",
        f"to {_by(pair(node.size))}" if node.kind.startswith("adaptive") else "",
        "sides rounded up" if node.ceil_mode else "", "" if node.count_include_pad else "padding not counted",
        f"from {table.fixed_in} channels" if table.fixed_in else "",
        f"to {table.fixed_out} channels" if table.fixed_out else "", f"at {_by(first.sides)}",
        "batch norm" if node.bn and node.kind not in FOLDING else "",
        ACTIVATIONS.get(node.activation, node.activation.replace("_", " "))]
    return ", ".join(filter(None, words))


def _by(sides: Sides) -> str:
    return f"{sides[0]}×{sides[1]}"


def _unless(usual: Sides, word: str, value: Union[int, Sides]) -> str:
    """The word and its number, or two; nothing where it is the usual one."""
    found = pair(value)
    return "" if found == usual else f"{word} {found[0] if found[0] == found[1] else _by(found)}"


def _padding(node: Node) -> str:
    if node.padding is None:
        return "SAME padding" if node.kind in ("conv", "depthwise") else ""
    if not any(node.padding):
        return ""
    return "padding " + "/".join(map(str, node.padding if len(set(node.padding)) > 1 else node.padding[:1]))
