"""Modules as users write them, for the tests of the import; also read as a file, tests/nets.py:NAME."""

import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    """A basic block of a CIFAR ResNet; shortcut "A": zero-padded channels, "B": a 1x1 convolution (He et al., 4.2)."""

    def __init__(self, cin, cout, stride, shortcut):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False), nn.BatchNorm2d(cout)
        self.conv2, self.bn2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False), nn.BatchNorm2d(cout)
        self.stride, self.more, self.shortcut = stride, cout - cin, None
        if shortcut == "B" and (stride > 1 or cin != cout):
            self.shortcut = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.shortcut is not None:
            x = self.shortcut(x)
        elif self.stride > 1 or self.more:
            x = F.pad(x[:, :, ::self.stride, ::self.stride], (0, 0, 0, 0, self.more // 2, self.more - self.more // 2))
        return torch.relu(x + y)


class CifarNet(nn.Module):
    def __init__(self, shortcut="A", num_classes=10, blocks=1, width=8):
        super().__init__()
        self.stem, self.bn, layers, cin = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), [], width
        for stage in range(3):
            for number in range(blocks):
                layers.append(Block(cin, width << stage, 2 if stage and not number else 1, shortcut))
                cin = width << stage
        self.blocks, self.fc = nn.Sequential(*layers), nn.Linear(cin, num_classes)

    def forward(self, x):
        return self.fc(self.blocks(torch.relu(self.bn(self.stem(x)))).mean((2, 3)))


class Odds(nn.Module):
    """What networks are made of, one of each: splits, a shuffle, a gate, concats, a grouped convolution, pools."""

    def __init__(self, num_classes=5):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 3, 2, padding="valid"), nn.BatchNorm2d(12, affine=False), nn.SiLU())
        self.left, self.right = nn.Conv2d(6, 8, 1), nn.Conv2d(6, 8, (3, 1), padding=(1, 0))
        self.deep = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False)
        self.grouped = nn.Conv2d(16, 24, 3, padding=2, dilation=2, groups=4)
        self.squeeze, self.excite = nn.Linear(24, 6), nn.Linear(6, 24)
        self.more = nn.Conv2d(24, 10, 1)
        self.scale = nn.Parameter(torch.rand(34, 1, 1) + 0.5)
        self.last = nn.Conv2d(34, 9, 2, stride=2)
        self.drop, self.hidden, self.bn1 = nn.Dropout(0.3), nn.Linear(9 * 2 * 2, 20), nn.BatchNorm1d(20)
        self.classes = nn.Linear(20, num_classes)

    def forward(self, x):
        x = F.pad(self.stem(x), (0, 1, 0, 1))
        a, b = x.chunk(2, dim=1)
        x = torch.cat([F.hardswish(self.left(a)), F.leaky_relu(self.right(b), 0.2)], 1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        x = F.relu6(self.deep(x))
        x = F.max_pool2d(F.gelu(self.grouped(x)), 3, 2, 1)
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))
        x = x * gate[:, :, None, None]
        x = torch.cat([x, torch.relu(self.more(x))], 1) * self.scale
        x = F.avg_pool2d(self.last(x), 2, ceil_mode=True, count_include_pad=False)
        x = self.drop(F.adaptive_max_pool2d(x, 2))
        return self.classes(torch.relu(self.bn1(self.hidden(x.flatten(1)))))


class Named(nn.Module):
    """Modules and a parameter with the names of attributes that a network of ours has."""

    def __init__(self, num_classes=5):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.network, self.widths = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.device, self.net, self.advance = nn.Conv2d(8, 6, 3), nn.ModuleList([nn.Conv2d(6, 6, 1)]), nn.Dropout(0.1)
        self.weight = nn.Parameter(torch.rand(6, 1, 1) + 0.5)
        self.batch_norms = nn.Linear(6, num_classes)

    def forward(self, x):
        x = self.layers(x)
        x = self.device(F.relu(self.widths(self.network(x)) + x))
        return self.batch_norms(self.advance(self.net[0](x * self.weight)).mean((2, 3)))


class Refusable(nn.Module):
    """A small network with something in its middle; ``middle``: a function of (this module, maps of 8 channels)."""

    def __init__(self, middle):
        super().__init__()
        self.conv, self.classes = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4)
        self.query, self.norm, self.middle = nn.Conv2d(8, 8, 1), nn.GroupNorm(2, 8), middle

    def forward(self, x):
        return self.classes(self.middle(self, self.conv(x)).mean((2, 3)))


def several_inputs():
    class Two(nn.Module):
        def forward(self, x, y):
            return (x + y).mean((2, 3))
    return Two()


def tuple_output():
    class Both(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)), x
    return Both()


def exits():
    raise SystemExit("gone")


def no_module():
    return 7
