"""The picture of a pruning run."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from utils.common.figure import new_figure, plain, write_figure
from utils.search.costs import LATENCY, Unit


def plot_pruning(path: Path, *, latencies_s: Sequence[float], errors_pct: Sequence[float], target_s: float, unit: Unit,
                 before: Mapping[str, int], after: Mapping[str, int], title: str) -> None:
    """PNG: held-out error against the cost, in this unit, a dot per step, and the channels left of every layer.

    before, after: {convolution: channels}, 0 for one that is gone.
    """
    figure = new_figure(figsize=(13, 5.5))
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.6))
    figure.suptitle(plain(title))
    shown = [s * unit.scale for s in latencies_s]
    left.plot(shown, errors_pct, "o-", color="tab:blue", markersize=4)
    left.annotate("unpruned", (shown[0], errors_pct[0]), textcoords="offset points", xytext=(-2, -14),
                  ha="right")
    left.axvline(target_s * unit.scale, color="tab:red", linestyle="--",
                 label="latency asked for" if unit == LATENCY else "asked for")
    left.set(xlabel=f"{unit.quantity} ({unit.name} per inference)", ylabel="error on the held-out images (%)")
    left.legend()
    left.margins(0.06, 0.1)
    left.grid(alpha=0.3)
    names = list(before)
    right.bar(names, [before[n] for n in names], color="lightgrey", label="unpruned")
    right.bar(names, [after[n] for n in names], color="tab:blue", label="left")
    right.set(ylabel="output channels", xlim=(-1, len(names)))
    for i, name in enumerate(names):
        if after[name] == 0:
            right.text(i, 0, "×", ha="center", va="bottom", color="tab:red", fontweight="bold")
    right.tick_params(axis="x", rotation=90, labelsize=8)
    right.legend(title="red ×: removed" if 0 in after.values() else None)
    write_figure(path, figure)
