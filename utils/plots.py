"""Pictures, drawn without a screen."""

import io
from pathlib import Path
from typing import Dict, Sequence

from utils.files import write_whole


def plot_pruning(path: Path, *, latencies_s: Sequence[float], errors_pct: Sequence[float], target_s: float,
                 before: Dict[str, int], after: Dict[str, int], title: str) -> None:
    """PNG: held-out error against predicted latency, a dot per step, and the channels left of every layer.

    before, after: {convolution: channels}, 0 for one that is gone.
    """
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(13, 5.5), width_ratios=(1, 1.6), layout="constrained")
    figure.suptitle(title)
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
    _save(figure, path)
    pyplot.close(figure)


def _save(figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    write_whole(path, buffer.getvalue())
