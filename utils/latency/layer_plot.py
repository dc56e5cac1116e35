"""The picture of where a network's latency goes, layer by layer, before and after pruning."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from utils.common.figure import new_figure, plain, time_unit, write_figure
from utils.latency.shares import LayerTime, by_map, split, total_s

MOST_LAYERS = 40  # that are drawn, a bar each
LONGEST = 44  # name, in characters
UNPRUNED, LEFT, REMOVED = "#c5d0dc", "tab:blue", "tab:red"


@dataclass(frozen=True)
class Bar:
    """What a part of the network takes, before and after pruning."""

    name: str
    before_s: float
    after_s: Optional[float]  # None: removed
    drawn: bool = True  # otherwise it has words alone


def plot_layers(path: Path, times: Sequence[LayerTime], title: str, *, pruned: bool) -> None:
    """PNG: the latency of all layers by the size of the map that they write, and below of every layer, in order.

    Of more than MOST_LAYERS layers, those that cost most have a bar, and a line sums up the others. pruned: whether
    there is an after to show.
    """
    maps = [Bar(f"{height}×{width} pixels, {_layers(group)}", *total_s(group))
            for (height, width), group in by_map(times).items()]
    shown, others = split(times, MOST_LAYERS)
    layers = [Bar(f"{_short(t.name)}   {t.operator}", t.before_s, t.after_s) for t in shown]
    if others:
        layers.append(Bar(f"{len(others)} other{'s' if len(others) > 1 else ''}", *total_s(others), drawn=False))
    figure = new_figure(figsize=(11, 2.2 + 0.24 * len(maps) + 0.21 * len(layers)))
    figure.suptitle(plain(textwrap.fill(title, 100)), fontsize=13)
    above, below = figure.subplots(2, 1, height_ratios=(len(maps) + 0.5, len(layers)))
    _draw_bars(above, maps, total_s(times), "By the size of the map", pruned=pruned)
    if pruned:
        above.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, borderaxespad=0.1)
    _draw_bars(below, layers, total_s(times), f"The {len(shown)} layers that cost most, in order" if others else
               "Every layer, in order", pruned=pruned)
    write_figure(path, figure, dpi=90)


def _short(name: str) -> str:
    """The end of a long name, which tells layers apart."""
    return name if len(name) <= LONGEST else f"…{name[1 - LONGEST:]}"


def _layers(times: Sequence[LayerTime]) -> str:
    return f"{len(times)} layer{'s' if len(times) > 1 else ''}"


def _draw_bars(axes: Any, bars: Sequence[Bar], totals: tuple[float, float], title: str, *, pruned: bool) -> None:
    """Horizontal bars, the first on top: what a part takes after pruning, inside what it took before."""
    longest = max(max(bar.before_s, bar.after_s or 0) for bar in bars if bar.drawn)
    unit, scale = time_unit(longest)
    decimals = 3 if longest * scale < 10 else 2 if longest * scale < 100 else 1
    places = [n for n, bar in enumerate(bars) if bar.drawn]
    axes.barh(places, [bars[n].before_s * scale for n in places], height=0.78, label="unpruned",
              color=UNPRUNED if pruned else LEFT)
    if pruned:
        axes.barh(places, [(bars[n].after_s or 0) * scale for n in places], height=0.42, color=LEFT, label="pruned")
    for place, bar in enumerate(bars):
        end = max(bar.before_s, bar.after_s or 0) if bar.drawn else 0
        axes.text((end + 0.008 * longest) * scale, place, _words(bar, totals, scale, decimals, pruned=pruned),
                  va="center", fontsize=7.5, color=REMOVED if bar.after_s is None else "#333333")
    axes.set_yticks(range(len(bars)), [plain(bar.name) for bar in bars], fontsize=8)
    axes.set_title(f"{title} ({unit}, share)", loc="left", fontsize=10)
    axes.set(xlabel=f"{unit} per inference", ylim=(len(bars) - 0.4, -0.6),
             xlim=(0, (1.4 if pruned else 1.2) * longest * scale))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _words(bar: Bar, totals: tuple[float, float], scale: float, decimals: int, *, pruned: bool) -> str:
    """310.2 → 120.4   9.8% → 5.1%: times, and shares of all."""
    before, share = f"{bar.before_s * scale:.{decimals}f}", f"{bar.before_s / totals[0]:.1%}"
    if not pruned:
        return f"{before}   {share}"
    if bar.after_s is None:
        return f"{before} → removed   {share}"
    return f"{before} → {bar.after_s * scale:.{decimals}f}   {share} → {bar.after_s / totals[1]:.1%}"
