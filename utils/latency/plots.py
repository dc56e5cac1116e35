"""Pictures of latency tables, and of predictions beside measurements."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.common.figure import colours, new_figure, plain, write_figure

LINE_STYLES = ("-", "--", ":", "-.")


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


def plot_tables(path: Path, tables: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """PNG with two panels per key: a heat map of the first table, and latency against output channels.

    The lines are of several input widths; every table has its own line style. A key with one column has one panel,
    along its channels. tables: {name: {key: seconds [cin - 1, cout - 1]}}, the same keys and shapes in each.
    """
    tables = {plain(name): {plain(key): array for key, array in table.items()} for name, table in tables.items()}
    first = next(iter(tables.values()))
    height = -(-len(first) // 2)
    figure = new_figure(figsize=(19, 3 * height))
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
    write_figure(path, figure, dpi=72)


def _draw_heat_map(axes: Any, key: str, table: np.ndarray) -> None:
    rows, columns = table.shape
    image = axes.imshow(table * 1e6, origin="lower", aspect="auto", extent=(0.5, columns + 0.5, 0.5, rows + 0.5))
    axes.figure.colorbar(image, ax=axes)
    axes.set(title=key, xlabel="output channels", ylabel="input channels")


def _draw_lines(axes: Any, key: str, tables: Sequence[np.ndarray], names: Sequence[str]) -> None:
    rows, columns = tables[0].shape
    cins = sorted({max(rows * part // 8, 1) for part in (1, 2, 4, 6, 8)}) if columns > 1 else [None]
    for number, cin in enumerate(cins):
        colour = colours("viridis")(number / max(len(cins), 1))
        for table, name, style in zip(tables, names, LINE_STYLES * len(tables)):
            line = table[:, 0] if cin is None else table[cin - 1]
            label = name if cin is None else f"{cin} in" + (f", {name}" if len(tables) > 1 else "")
            axes.plot(range(1, len(line) + 1), line * 1e6, style, color=colour, linewidth=1.2, label=label)
    axes.set(title=key, xlabel="channels" if cins == [None] else "output channels", ylabel="µs", ylim=(0, None))
    axes.legend(fontsize=7, ncols=len(tables), loc="upper left")
    axes.grid(alpha=0.3)
