"""MobileNetV2 (arXiv 1801.04381, table 2) for images of any size, as a description.

A stem, 17 inverted residual blocks in seven stages, a last convolution, average pool, dropout, classifier. A block is
1x1 conv-BN-ReLU6 (expansion) -> 3x3 depthwise-BN-ReLU6 -> 1x1 conv-BN (projection); its input is added where it has
the same size. The first block has no expansion. Padding is TensorFlow's SAME, as in the original; torchvision's network
differs in it. Five strides of 2 leave single pixels of images below 64 pixels, on which it learns slowly. Groups:
``Stem``, every block's expanded channels ``Inner_s_i`` (width 0 removes the block, where it has an addition), every
stage's residual stream ``Stream_s``, and ``Last``.
"""

from model.network import Group, Input, Network
from model.operators import Node, units
from model.sizes import check_images

EXAMPLES = ({"width": 0.1, "img_size": 16},)
FLAGS = {"width": (1.0, "factor of all channels")}

STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
          (6, 320, 1, 1))  # factor of expansion, channels, blocks, stride of the first block
STEM, LAST, DROPOUT = 32, 1280, 0.2


def describe(width: float = 1.0, img_size: int = 32, num_classes: int = 10) -> Network:
    """Describe a MobileNetV2.

    width: the factor of all channels, rounded to multiples of 8; img_size: side of the square RGB images, pixels.
    Raises ValueError saying which values are valid.
    """
    if not 0 < width <= 100:
        raise ValueError(f"--width={width:g}: expected a factor above 0, at most 100, such as 0.5, 1 or 1.4")
    check_images(img_size, num_classes)
    groups = [Group("image", 3, prunable=False), Group("Stem", rounded(STEM * width))]
    nodes = [Node("Stem", "conv", ("image",), units("Stem"), kernel=3, stride=2, bn=True, activation="relu6",
                  table="Stem")]
    read, width_of_input = "Stem", groups[-1].width  # the tensor that the next block reads
    for s, (expansion, channels, blocks, stride) in enumerate(STAGES, 1):
        stream = Group(f"Stream_{s}", rounded(channels * width))
        for i in range(blocks):
            made, added = _block(s, i, read, expansion, stride if i == 0 else 1)
            if expansion > 1:
                groups.append(Group(f"Inner_{s}_{i}", width_of_input * expansion, removable=added))
            if i == 0:
                groups.append(stream)
            nodes += made
            read, width_of_input = nodes[-1].name, stream.width
    groups += [Group("Last", rounded(LAST * max(width, 1.0))), Group("Classes", num_classes, prunable=False)]
    nodes += [Node("Last", "conv", (read,), units("Last"), bn=True, activation="relu6", table="Last"),
              Node("Pool", "pool", ("Last",)), Node("Dropout", "dropout", ("Pool",), rate=DROPOUT),
              Node("Classes", "linear", ("Dropout",), units("Classes"), bias=True, table="Classes")]
    arguments = {"net": "mobilenet_v2", "width": float(width), "img_size": int(img_size),
                 "num_classes": int(num_classes)}
    return Network(arguments, (Input("image", "image", img_size),), tuple(groups), tuple(nodes))


def _block(s: int, i: int, read: str, expansion: int, stride: int) -> tuple[list[Node], bool]:
    """Block i of stage s, and whether its input is added."""
    place = f"{s}_first" if i == 0 else f"{s}"  # blocks behind the first are alike
    nodes, inner, stream = [], read, units(f"Stream_{s}")
    if expansion > 1:
        inner = f"Expand_{s}_{i}"
        nodes.append(Node(inner, "conv", (read,), units(f"Inner_{s}_{i}"), bn=True, activation="relu6",
                          table=f"Expand_{place}"))
    nodes.append(Node(f"Depthwise_{s}_{i}", "depthwise", (inner,), kernel=3, stride=stride, bn=True, activation="relu6",
                      table=f"Depthwise_{place}"))
    nodes.append(Node(f"Project_{s}_{i}", "conv", (f"Depthwise_{s}_{i}",), stream, bn=True, table=f"Project_{s}"))
    if i == 0:  # the channels, and often the size, differ from the input's
        return nodes, False
    nodes.append(Node(f"Sum_{s}_{i}", "add", (f"Project_{s}_{i}", read), table=f"Sum_{s}"))
    return nodes, True


def rounded(channels: float) -> int:
    """The nearest multiple of 8, at least 8, and at least 90% of ``channels``, as in the original."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near
