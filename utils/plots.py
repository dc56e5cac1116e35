"""Pictures, drawn without a screen."""

import io
import math
from pathlib import Path
from typing import Dict, Mapping, Sequence

import numpy as np

from utils import comparison
from utils.comparison import Row
from utils.files import write_whole

LINE_STYLES = ("-", "--", ":", "-.")
WIDE = 3  # errors that differ by more than so many times are drawn on a logarithmic axis
MARKERS = "osD^vP*Xhp"


def plot_pruning(path: Path, *, latencies_s: Sequence[float], errors_pct: Sequence[float], target_s: float,
                 before: Dict[str, int], after: Dict[str, int], title: str) -> None:
    """PNG: held-out error against predicted latency, a dot per step, and the channels left of every layer.

    before, after: {convolution: channels}, 0 for one that is gone.
    """
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(13, 5.5), width_ratios=(1, 1.6), layout="constrained")
    figure.suptitle(_plain(title))
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


def plot_validation(path: Path, predicted_s: Sequence[float], measured_s: Sequence[float], title: str) -> None:
    """PNG: predicted against measured latency of whole networks, and the relative errors below."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    figure, (above, below) = pyplot.subplots(2, 1, figsize=(6.5, 8), height_ratios=(2.4, 1), sharex=True,
                                             layout="constrained")
    figure.suptitle(_plain(title))
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
    _save(figure, path)
    pyplot.close(figure)


def plot_tables(path: Path, tables: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """PNG, for every key: left a heat map of the first table, right the latency along output channels at several
    input widths (of a table of one column: along its channels), every table in a line style of its own.

    tables: {name: {key: seconds [cin - 1, cout - 1]}}, the same keys and shapes in each.
    """
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    tables = {_plain(name): {_plain(key): array for key, array in table.items()} for name, table in tables.items()}
    first = next(iter(tables.values()))
    height = -(-len(first) // 2)
    figure = pyplot.figure(figsize=(19, 3 * height), layout="constrained")
    figure.suptitle(" and ".join(tables) + ": latency of a layer, timed alone (µs)")
    grid = figure.add_gridspec(height, 4, width_ratios=(1, 1.7, 1, 1.7))
    for number, key in enumerate(first):
        row, column = divmod(number, 2)
        lines = grid[row, 2 * column + 1]
        if 1 in first[key].shape:
            lines = grid[row, 2 * column:2 * column + 2]
        else:
            _draw_heat_map(figure.add_subplot(grid[row, 2 * column]), key, first[key])
        _draw_lines(figure.add_subplot(lines), key, [table[key] for table in tables.values()], list(tables))
    _save(figure, path, dpi=72)
    pyplot.close(figure)


def plot_comparison(path: Path, rows: Sequence[Row], title: str) -> None:
    """PNG: error against latency, a dot per network, means and deviations over the seeds, and the Pareto front. A colour
    per method, a marker for each of its criteria."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator
    figure, axes = pyplot.subplots(figsize=(10, 6.5), layout="constrained")
    rows, points = comparison.drawable(rows), comparison.points(rows)
    methods = list(dict.fromkeys(r.method for r in rows))
    for row in {comparison.label(r): r for r in reversed(rows)}.values():  # the first row of every label
        label = comparison.label(row)
        labels = list(dict.fromkeys(comparison.label(r) for r in rows if r.method == row.method))
        colour, marker = pyplot.get_cmap("tab10")(methods.index(row.method) % 10), MARKERS[labels.index(label) % len(MARKERS)]
        mine, means = [r for r in rows if comparison.label(r) == label], [p for p in points if p.label == label]
        axes.plot([r.latency_s * 1e3 for r in mine], [r.retrain_scratch for r in mine], ".", color=colour, alpha=0.35,
                  markersize=5)
        axes.errorbar([p.latency_s * 1e3 for p in means], [p.error_pct for p in means],
                      [0 if math.isnan(p.deviation) else p.deviation for p in means], fmt=marker, color=colour, capsize=3,
                      markersize=6, label=_plain(label))
    for point, named in zip(points, comparison.titles(points)):
        if named != point.label:
            axes.annotate(_plain(point.network), (point.latency_s * 1e3, point.error_pct), (6, 5),
                          textcoords="offset points", fontsize=8, color="dimgrey")
    front = comparison.front(points)
    axes.plot([p.latency_s * 1e3 for p in front], [p.error_pct for p in front], color="grey", linewidth=1, zorder=0,
              label="Pareto front")
    kinds = sorted({"predicted" if math.isnan(r.measured_time) else "measured" for r in rows})
    axes.set(title=_plain(title), xlabel=f"{' or '.join(kinds)} latency (ms per inference)",
             ylabel="test error, retrained from scratch (%)")
    errors = [r.retrain_scratch for r in rows]
    if max(errors) > WIDE * min(errors) > 0:  # one bad method would press all others together
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 6, 8)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, path)
    pyplot.close(figure)


def _plain(text: str) -> str:
    """Without what matplotlib takes for mathematics."""
    return text.replace("$", r"\$")


def _draw_heat_map(axes, key: str, table: np.ndarray) -> None:
    rows, columns = table.shape
    image = axes.imshow(table * 1e6, origin="lower", aspect="auto", extent=(0.5, columns + 0.5, 0.5, rows + 0.5))
    axes.figure.colorbar(image, ax=axes)
    axes.set(title=key, xlabel="output channels", ylabel="input channels")


def _draw_lines(axes, key: str, tables: Sequence[np.ndarray], names: Sequence[str]) -> None:
    from matplotlib import pyplot
    rows, columns = tables[0].shape
    colours = pyplot.get_cmap("viridis")
    cins = sorted({max(rows * part // 8, 1) for part in (1, 2, 4, 6, 8)}) if columns > 1 else [None]
    for number, cin in enumerate(cins):
        colour = colours(number / max(len(cins), 1))
        for table, name, style in zip(tables, names, LINE_STYLES * len(tables)):
            line = table[:, 0] if cin is None else table[cin - 1]
            label = name if cin is None else f"{cin} in" + (f", {name}" if len(tables) > 1 else "")
            axes.plot(range(1, len(line) + 1), line * 1e6, style, color=colour, linewidth=1.2, label=label)
    axes.set(title=key, xlabel="channels" if cins == [None] else "output channels", ylabel="µs", ylim=(0, None))
    axes.legend(fontsize=7, ncols=len(tables), loc="upper left")
    axes.grid(alpha=0.3)


def _save(figure, path: Path, dpi: int = 110) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    write_whole(path, buffer.getvalue())
