"""WideResNet-depth-width (arXiv 1605.07146) for small images, as a description.

Conv_0, then three stages of (depth - 4) / 6 blocks at 16k, 32k and 64k channels, average pool, FC. A block is
conv-BN-ReLU -> conv -> add skip -> BN -> ReLU; the first block of every stage has a bare 1x1 convolution as its
skip, and halves the feature map in stages 2 and 3. Groups: ``Conv_0``, every block's inner channels ``Conv_s_i_1``
(width 0 removes the block), every stage's residual stream ``Conv_s_0_2``.
"""

from model.network import Group, Input, Network
from model.operators import Node, units
from model.sizes import check_sizes

EXAMPLES = ({"depth": 16, "width": 0.5}, {"depth": 10, "width": 1.0})
FLAGS = {"depth": (40, "6n + 4"), "width": (2.0, "factor k of the channels of all stages")}


def describe(depth: int, width: float, img_size: int = 32, num_classes: int = 10) -> Network:
    """Describe a WideResNet.

    depth: 6n + 4 layers; width: the factor k, 16k being a whole number of channels; img_size: side of the square
    RGB images, pixels. Raises ValueError saying which values are valid.
    """
    if not 10 <= depth <= 1000 or depth != int(depth) or (depth - 4) % 6:
        raise ValueError(f"--depth={depth}: a WideResNet has depth 6n + 4: 10, 16, 22, 28, 34, 40, ... up to 1000")
    check_sizes(width, img_size, num_classes)
    base, blocks = int(16 * width), int(depth - 4) // 6
    groups = [Group("image", 3, prunable=False), Group("Conv_0", 16)]
    nodes = [Node("Conv_0", "conv", ("image",), units("Conv_0"), kernel=3, bn=True, activation="relu", table="Conv_0")]
    stream = "Conv_0"  # the tensor that the next block reads
    for s in (1, 2, 3):
        channels, trunk = base * 2 ** (s - 1), f"Conv_{s}_0_2"
        for i in range(blocks):
            conv1, conv2, skip, join = f"Conv_{s}_{i}_1", f"Conv_{s}_{i}_2", f"Skip_{s}", f"Join_{s}_{i}"
            stride = 2 if i == 0 and s > 1 else 1
            groups.append(Group(conv1, channels, removable=True))
            nodes.append(Node(conv1, "conv", (stream,), units(conv1), kernel=3, stride=stride, bn=True,
                              activation="relu", table=f"Stride_{s}" if i == 0 else f"No_Stride_{s}"))
            nodes.append(Node(conv2, "conv", (conv1,), units(trunk), kernel=3, table=f"No_Stride_{s}"))
            if i == 0:
                groups.append(Group(trunk, channels))
                nodes.append(Node(skip, "conv", (stream,), units(trunk), stride=stride, table=skip))
                stream = skip
            nodes.append(Node(join, "add", (conv2, stream), bn=True, activation="relu", table=f"Join_{s}",
                              transparent=True))
            stream = join
    groups.append(Group("FC", num_classes, prunable=False))
    nodes.append(Node("Pool", "pool", (stream,)))
    nodes.append(Node("FC", "linear", ("Pool",), units("FC"), bias=True, table="FC"))
    arguments = {"net": "res", "depth": int(depth), "width": float(width), "img_size": int(img_size),
                 "num_classes": int(num_classes)}
    return Network(arguments, (Input("image", "image", img_size),), tuple(groups), tuple(nodes))
