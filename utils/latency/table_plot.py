"""The picture of latency tables: for every operator a heat map, and lines along its output channels."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np

from model.timed import Table
from utils.common.figure import colours, new_figure, plain, time_unit, write_figure
from utils.latency.words import table_in_words

STYLES = {"solid": "-", "dashed": "--", "dotted": ":", "dash-dotted": "-."}
MOST_CELLS = 256  # of a heat map, along a side: a panel has no more pixels
TITLE = 100  # characters in a line


@dataclass(frozen=True)
class Panel:
    """An operator in one or several tables."""

    title: str
    arrays: Sequence[np.ndarray]  # seconds [inputs, outputs] by every table, of one shape
    steps: tuple[int, int] = (1, 1)  # channels that a row and a column stand for
    along: str = "channels"  # what varies where there is a single row or column


def panel_of(arrays: Sequence[np.ndarray], key: str, table: Optional[Table], cost: str) -> Panel:
    """The panel of a key, titled in words where it is known what the table measures. cost: what it costs, in words."""
    if table is None:
        return Panel(f"{key}: {cost}", arrays)
    rows, columns = (table.step_in, table.step_out) if table.free else (table.step_out, table.step_out)
    along = "channels" if not table.free else "input channels" if table.columns == 1 else "output channels"
    return Panel(f"{table_in_words(table)}: {cost}", arrays, (rows, columns), along)


def plot_tables(path: Path, names: Sequence[str], panels: Sequence[Panel], about: str = "") -> None:
    """PNG: for every panel a heat map of the first table, and latency against output channels.

    The lines are of several numbers of input channels; every table has its own line style. An operator with one column
    or one row has lines alone. names: of the tables; about: more of the title.
    """
    across, down = min(len(panels), 2), -(-len(panels) // 2)
    figure = new_figure(figsize=(9.5 * across, 3.1 * down + 0.7))
    styled = [f"{name} ({style})" for name, style in zip(names, len(names) * list(STYLES))] if names[1:] else names
    figure.suptitle(plain(f"{' and '.join(styled)}: latency of a layer, timed alone{about}"), fontsize=13)
    parts = figure.subfigures(down, across, squeeze=False, wspace=0.02, hspace=0.03)
    for part, panel in zip(parts.flat, panels):
        part.suptitle(plain(textwrap.fill(panel.title, TITLE)), fontsize=11)
        unit, scale = time_unit(max(float(array.max()) for array in panel.arrays))
        if 1 in panel.arrays[0].shape:
            lines = part.subplots()
        else:
            heat, lines = part.subplots(1, 2, width_ratios=(1, 1.7))
            _draw_heat_map(heat, panel, unit, scale)
        _draw_lines(lines, panel, unit, scale)
    write_figure(path, figure, dpi=72)


def _draw_heat_map(axes: Any, panel: Panel, unit: str, scale: float) -> None:
    (rows, columns), (ins, outs) = panel.arrays[0].shape, panel.steps
    image = axes.imshow(coarse(panel.arrays[0], MOST_CELLS) * scale, origin="lower", aspect="auto",
                        extent=(outs / 2, (columns + 0.5) * outs, ins / 2, (rows + 0.5) * ins))
    axes.figure.colorbar(image, ax=axes, label=unit)
    axes.set(xlabel="output channels", ylabel="input channels")


def coarse(array: np.ndarray, most: int) -> np.ndarray:
    """The array, where it has more than ``most`` rows or columns as means over so many blocks."""
    starts = [np.arange(min(n, most)) * n // min(n, most) for n in array.shape]
    sizes = [np.diff([*start, n]) for start, n in zip(starts, array.shape)]
    sums = np.add.reduceat(np.add.reduceat(array, starts[0], axis=0), starts[1], axis=1)
    return sums / np.outer(*sizes)


def _draw_lines(axes: Any, panel: Panel, unit: str, scale: float) -> None:
    """A line per number of input channels, or a single one where only the inputs or the outputs vary."""
    (rows, columns), (ins, outs) = panel.arrays[0].shape, panel.steps
    single = 1 in (rows, columns)
    chosen = [0] if single else sorted({max(rows * part // 8, 1) - 1 for part in (1, 2, 4, 6, 8)}, reverse=True)
    for number, row in enumerate(chosen, 1):
        for array, style in zip(panel.arrays, len(panel.arrays) * list(STYLES.values())):
            line = array.ravel() if single else array[row]
            axes.plot(np.arange(1, len(line) + 1) * (ins if columns == 1 else outs), line * scale,
                      style if len(line) > 1 else "o", linewidth=1.3,
                      color="tab:blue" if single else colours("viridis")(1 - number / len(chosen)),
                      label=f"{(row + 1) * ins}" if array is panel.arrays[0] else None)
    axes.set(xlabel=panel.along if single else "output channels", ylabel=unit, ylim=(0, None))
    if not single:
        axes.legend(title="input\nchannels", loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8,
                    title_fontsize=8)
    axes.grid(alpha=0.3)
