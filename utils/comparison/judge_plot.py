"""The picture of judges: the error after training from scratch against each of them."""

from collections.abc import Sequence
from pathlib import Path

from utils.common.figure import logarithmic, new_figure, plain, write_figure
from utils.comparison import ranks
from utils.comparison.judges import LATENCIES, Net, is_near, judges

PICTURED = ("parameters", "MACs", "batch norms measured anew: held-out error",
            "fine-tuned, 100 batches: held-out error", "fine-tuned, 100 batches: training loss",
            "1 epoch on a third: training loss", "1 epoch: training loss", "3 epochs: held-out error",
            "3 epochs: training loss")
COLOURS = ("tab:blue", "tab:orange")  # of the latencies
REST = "darkgrey"


def plot_judges(path: Path, nets: Sequence[Net], title: str) -> None:
    """PNG: a panel per judge, a dot per network, a colour per latency."""
    figure = new_figure(figsize=(12, 10))
    figure.suptitle(plain(title))
    every, errors = judges(), [net.error_pct for net in nets]
    groups = [(f"{r:.0%} of the latency removed", colour, [n for n in nets if is_near(n, r)])
              for r, colour in zip(LATENCIES, COLOURS)]
    groups.append(("other", REST, [n for n in nets if not any(is_near(n, r) for r in LATENCIES)]))
    grid = figure.subplots(3, 3, sharey=True)
    for axes, name in zip(grid.flat, PICTURED):
        sign = -1 if name in ("parameters", "MACs") else 1  # drawn as they are
        for words, colour, of in groups:
            axes.plot([sign * every[name](n) for n in of], [n.error_pct for n in of], "o", color=colour, alpha=0.7,
                      markersize=5, label=words)
        axes.set(xlabel=name + (", %" if name.endswith("error") else ""),
                 title=f"Spearman {ranks.spearman([every[name](n) for n in nets], errors):.2f}")
        axes.grid(alpha=0.3)
    for row in grid:
        row[0].set_ylabel("error, retrained (%)")
    logarithmic(grid[0][0])
    grid[0][0].legend(fontsize=8)
    write_figure(path, figure)
