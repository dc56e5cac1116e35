"""The picture of a comparison."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.common.figure import colours, logarithmic, new_figure, plain, write_figure
from utils.comparison import results
from utils.comparison.results import Point, Row

WIDE = 3  # errors that differ by more than so many times are drawn on a logarithmic axis
MARKERS = "osD^vP*Xhp"


def plot_comparison(path: Path, rows: Sequence[Row], title: str) -> None:
    """PNG: error against latency, a dot per network, means and deviations over the seeds, and the Pareto front. A
    colour per method, a marker for each of its criteria."""
    figure = new_figure(figsize=(10, 6.5))
    axes = figure.subplots()
    rows, points = results.drawable(rows), results.points(rows)
    methods = list(dict.fromkeys(r.method for r in rows))
    for row in {results.label(r): r for r in reversed(rows)}.values():  # the first row of every label
        label = results.label(row)
        labels = list(dict.fromkeys(results.label(r) for r in rows if r.method == row.method))
        _draw_label(axes, label, [r for r in rows if results.label(r) == label],
                    [p for p in points if p.label == label], colour=colours("tab10")(methods.index(row.method) % 10),
                    marker=MARKERS[labels.index(label) % len(MARKERS)])
    for point, named in zip(points, results.titles(points)):
        if named != point.label:
            axes.annotate(plain(point.network), (point.latency_s * 1e3, point.error_pct), (6, 5),
                          textcoords="offset points", fontsize=8, color="dimgrey")
    front = results.front(points)
    axes.plot([p.latency_s * 1e3 for p in front], [p.error_pct for p in front], color="grey", linewidth=1, zorder=0,
              label="Pareto front")
    kinds = sorted({"predicted" if math.isnan(r.measured_time) else "measured" for r in rows})
    axes.set(title=plain(title), xlabel=f"{' or '.join(kinds)} latency (ms per inference)",
             ylabel="test error, retrained from scratch (%)")
    errors = [r.retrain_scratch for r in rows]
    if max(errors) > WIDE * min(errors) > 0:  # one bad method would press all others together
        logarithmic(axes)
    axes.grid(alpha=0.3)
    axes.legend()
    write_figure(path, figure)


def _draw_label(axes: Any, label: str, rows: Sequence[Row], points: Sequence[Point], *, colour: Any,
                marker: str) -> None:
    """The networks of one label, and their means."""
    axes.plot([r.latency_s * 1e3 for r in rows], [r.retrain_scratch for r in rows], ".", color=colour, alpha=0.35,
              markersize=5)
    axes.errorbar([p.latency_s * 1e3 for p in points], [p.error_pct for p in points],
                  [0 if math.isnan(p.deviation) else p.deviation for p in points], fmt=marker, color=colour, capsize=3,
                  markersize=6, label=plain(label))
