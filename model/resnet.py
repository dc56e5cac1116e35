"""ResNet-depth for small images (arXiv 1512.03385, section 4.2), with projections as shortcuts, as a description.

A stem, then three stages of (depth - 2) / 6 blocks at 16k, 32k and 64k channels, average pool, classifier. A block is
conv-BN-ReLU -> conv-BN -> add shortcut -> ReLU. The first block of stages 2 and 3 halves the feature map; its shortcut
is a 1x1 convolution with batch norm. Groups: every block's inner channels ``Inner_s_i`` (at 0 the block goes), every
stage's residual stream ``Stream_s``.
"""

from model.network import Group, Input, Network
from model.operators import Node, units
from model.sizes import check_sizes

EXAMPLES = ({"depth": 8, "width": 0.5},)
FLAGS = {"depth": (None, "6n + 2"), "width": (1.0, "factor k of all channels")}


def describe(depth: int, width: float = 1.0, img_size: int = 32, num_classes: int = 10) -> Network:
    """Describe a ResNet.

    depth: 6n + 2 layers; width: the factor k, 16k being a whole number of channels; img_size: side of the square
    RGB images, pixels. Raises ValueError saying which values are valid.
    """
    if not 8 <= depth <= 1000 or depth != int(depth) or (depth - 2) % 6:
        raise ValueError(f"--depth={depth}: a ResNet has depth 6n + 2: 8, 14, 20, 32, 44, 56, 110, ... up to 1000")
    check_sizes(width, img_size, num_classes)
    groups = [Group("image", 3, prunable=False), Group("Stream_1", int(16 * width))]
    nodes = [Node("Stem", "conv", ("image",), units("Stream_1"), kernel=3, bn=True, activation="relu", table="Stem")]
    read = "Stem"  # the tensor that the next block reads
    for s in (1, 2, 3):
        channels, stream = int(16 * width) * 2 ** (s - 1), f"Stream_{s}"
        for i in range(int(depth - 2) // 6):
            inner, first, second, shortcut = f"Inner_{s}_{i}", f"First_{s}_{i}", f"Second_{s}_{i}", read
            down = i == 0 and s > 1
            groups.append(Group(inner, channels, removable=True))
            nodes.append(Node(first, "conv", (read,), units(inner), kernel=3, stride=2 if down else 1, bn=True,
                              activation="relu", table=f"Down_{s}" if down else f"Same_{s}"))
            nodes.append(Node(second, "conv", (first,), units(stream), kernel=3, bn=True, table=f"Same_{s}"))
            if down:
                groups.append(Group(stream, channels))
                shortcut = f"Shortcut_{s}"
                nodes.append(Node(shortcut, "conv", (read,), units(stream), stride=2, bn=True, table=shortcut))
            read = f"Sum_{s}_{i}"
            nodes.append(Node(read, "add", (second, shortcut), activation="relu", table=f"Sum_{s}"))
    groups.append(Group("Classes", num_classes, prunable=False))
    nodes.append(Node("Pool", "pool", (read,)))
    nodes.append(Node("Classes", "linear", ("Pool",), units("Classes"), bias=True, table="Classes"))
    arguments = {"net": "resnet", "depth": int(depth), "width": float(width), "img_size": int(img_size),
                 "num_classes": int(num_classes)}
    return Network(arguments, (Input("image", "image", img_size),), tuple(groups), tuple(nodes))
