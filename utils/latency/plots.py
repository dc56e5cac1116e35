"""The picture of predictions beside measurements."""

from collections.abc import Sequence
from pathlib import Path

from utils.common.figure import new_figure, plain, write_figure


def plot_validation(path: Path, predicted_s: Sequence[float], measured_s: Sequence[float], title: str) -> None:
    """PNG: predicted against measured latency of whole networks, and the relative errors below."""
    figure = new_figure(figsize=(6.5, 8))
    above, below = figure.subplots(2, 1, height_ratios=(2.4, 1), sharex=True)
    figure.suptitle(plain(title))
    measured, predicted = ([s * 1e3 for s in seconds] for seconds in (measured_s, predicted_s))
    ends = [0, 1.05 * max(*measured, *predicted)]
    above.plot(ends, ends, color="grey", linewidth=1, label="predicted = measured")
    above.plot(measured, predicted, "o", color="tab:blue", alpha=0.8)
    above.set(ylabel="predicted latency (ms per inference)", xlim=ends, ylim=ends)
    above.legend()
    below.axhline(0, color="grey", linewidth=1)
    below.plot(measured, [100 * (p / m - 1) for p, m in zip(predicted, measured)], "o", color="tab:blue", alpha=0.8)
    below.set(xlabel="measured latency (ms per inference)", ylabel="error (% of measured)")
    for axes in (above, below):
        axes.grid(alpha=0.3)
    write_figure(path, figure)
