"""The tile size of a kernel: how many channels it computes at once, found in the times of neighbouring widths.

A kernel whose tiles are q channels wide takes a step of latency behind every multiple of q. What is left behind the
last whole tile may take a slower way of its own. Nothing of this is assumed of a device; it is looked for.
"""

import numpy as np

SIZES = (2, 3, 4, 6, 8, 12, 16, 24, 32)  # that are looked for
RUN = 40  # neighbouring widths, among which every size has an end
CENTRE = 64  # of a run, in a wide operator
BETTER = 0.8  # a tile explains the times if it leaves less of the plain line's error
LEAST = 8  # times; fewer show nothing


def run(channels: np.ndarray) -> np.ndarray:
    """Indices of the short run of widths that shows the tile size: the ends of tiles of any size, and the widths right
    behind them. channels: that the operator may have, ascending."""
    middle = min(len(channels) // 2, CENTRE)
    begin = max(min(middle - RUN // 2, len(channels) - RUN), 0)
    near = np.arange(begin, min(begin + RUN, len(channels)))
    telling = np.isin(channels[near] % 12, (0, 1, 4, 5, 6, 7, 8, 9))
    return near[telling] if np.all(np.diff(channels[near]) == 1) and len(near) == RUN else near


def found(channels: np.ndarray, seconds: np.ndarray) -> int:
    """The tile size, in channels, that explains the times of a run best; 1 where none does.

    For every size the times are fitted, by least squares of relative errors, as a line in the channels, a step per tile
    and a constant where a remainder is left.
    """
    if len(channels) < LEAST:
        return 1
    errors = {size: _error(channels, seconds, size) for size in (1, *SIZES) if size == 1 or _shows(channels, size)}
    best = min(errors, key=lambda size: errors[size])
    return best if errors[best] < BETTER * errors[1] else 1


def _shows(channels: np.ndarray, size: int) -> bool:
    """Whether these channels have an end of such a tile among them, and widths within one."""
    return len(set(np.ceil(channels / size))) > 1 and bool(np.any(channels % size == 0) and np.any(channels % size))


def _error(channels: np.ndarray, seconds: np.ndarray, size: int) -> float:
    """The mean relative error, per degree of freedom: more terms fit noise better, too."""
    terms = [np.ones(len(channels)), channels]
    if size > 1:
        terms += [np.ceil(channels / size), channels % size != 0]
    relative = np.stack(terms, 1) / seconds[:, None]
    weights = np.linalg.lstsq(relative, np.ones(len(channels)), rcond=None)[0]
    return float(np.abs(relative @ weights - 1).sum() / (len(channels) - len(terms)))
