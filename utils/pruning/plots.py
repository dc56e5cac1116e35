"""The picture of a pruning run."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from utils.common.figure import new_figure, plain, write_figure


def plot_pruning(path: Path, *, latencies_s: Sequence[float], errors_pct: Sequence[float], target_s: float,
                 before: Mapping[str, int], after: Mapping[str, int], title: str) -> None:
    """PNG: held-out error against predicted latency, a dot per step, and the channels left of every layer.

    before, after: {convolution: channels}, 0 for one that is gone.
    """
    figure = new_figure(figsize=(13, 5.5))
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.6))
    figure.suptitle(plain(title))
    milliseconds = [s * 1e3 for s in latencies_s]
    left.plot(milliseconds, errors_pct, "o-", color="tab:blue", markersize=4)
    left.annotate("unpruned", (milliseconds[0], errors_pct[0]), textcoords="offset points", xytext=(-2, -14),
                  ha="right")
    left.axvline(target_s * 1e3, color="tab:red", linestyle="--", label="latency asked for")
    left.set(xlabel="predicted latency (ms per inference)", ylabel="error on the held-out images (%)")
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
