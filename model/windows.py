"""What the windows of a pool see, for runtimes that pad in other ways than torch. Runs on Python 3.9 with NumPy."""

from collections.abc import Sequence

import numpy as np

from model.network import Layer
from model.operators import Node, Padding, Sides, non_negative, pair


def reach(node: Node, sides: Sides, out_sides: Sides) -> Padding:
    """The pixels around the map that the windows of a pool see; a last one may go beyond the padding (ceil_mode)."""
    found: list[int] = []
    before = (node.padding or (0, 0, 0, 0))[::2]
    for side, out, kernel, stride, first in zip(sides, out_sides, pair(node.kernel), pair(node.stride), before):
        found += [first, max((out - 1) * stride + kernel - side - first, 0)]
    return found[0], found[1], found[2], found[3]


def share_seen(node: Node, sides: Sides, out_sides: Sides) -> np.ndarray:
    """The part of every window of an average pool that torch divides by: pixels of the map, or of its padding, too.

    Returns float64 [height, width] of the output.
    """
    around, (height, width), padding = reach(node, sides, out_sides), sides, node.padding or (0, 0, 0, 0)
    counted = np.zeros((height + around[0] + around[1], width + around[2] + around[3]))
    if node.count_include_pad:
        counted[:around[0] + height + padding[1], :around[2] + width + padding[3]] = 1
    else:
        counted[around[0]:around[0] + height, around[2]:around[2] + width] = 1
    down, right = pair(node.stride)
    windows = np.lib.stride_tricks.sliding_window_view(counted, pair(node.kernel))
    return windows[::down, ::right][:out_sides[0], :out_sides[1]].mean((2, 3))


def never_negative(layers: Sequence[Layer]) -> frozenset[str]:
    """The layers whose outputs are never negative."""
    found: set[str] = set()
    for layer in layers:
        if non_negative(layer.node, found.issuperset(layer.inputs)):
            found.add(layer.node.name)
    return frozenset(found)
