"""Kernels whose times are known, for the tests of what finds their tiles and fits their times."""

from dataclasses import dataclass

import numpy as np

from model.architectures import describe
from utils.latency.points import Plane

WIDE = describe("res", depth=10, width=10.0)
PLANES = {key: Plane(table) for key, table in WIDE.tables.items()}  # No_Stride_3: 640 x 640, Skip_1: 16 x 160


@dataclass(frozen=True)
class Kernel:
    """Computes tile_out channels at once, and reads tile_in; what is left behind the last whole tile takes ``slower``
    times as long as a tile. A start takes 5 µs."""

    tile_in: int
    tile_out: int
    slower: float = 1.5

    def seconds(self, cin, cout):
        """Of one pair, or of arrays of one shape."""
        cin, cout = np.asarray(cin, np.float64), np.asarray(cout, np.float64)
        read, whole = np.ceil(cin / self.tile_in) * self.tile_in, cout // self.tile_out * self.tile_out
        written = whole + np.where(cout > whole, self.slower * self.tile_out, 0)
        return 5e-6 + 1e-9 * written * (read + 24)

    def measured(self, cin, cout, seed=0, noise=0.01):
        seconds = self.seconds(cin, cout)
        return seconds * (1 + noise * np.random.default_rng(seed).standard_normal(seconds.shape))


def every(plane, kernel):
    """Seconds of every entry, [cin, cout]."""
    return kernel.seconds(plane.cin[:, None], plane.cout[None, :])
