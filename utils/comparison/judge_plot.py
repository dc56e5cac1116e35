"""The picture of judges: the error after training from scratch against each of them."""

from collections.abc import Sequence
from pathlib import Path

from utils.common.figure import new_figure, plain, write_figure
from utils.comparison import ranks
from utils.comparison.judges import LATENCIES, Net, hopeful, is_near, judges

PICTURED = {"parameters": -1e-3, "MACs": -1e-6, "batch norms measured anew: held-out error": 1,
            "fine-tuned, 100 batches: held-out error": 1, "fine-tuned, 100 batches: training loss": 1,
            "1 epoch on a third: training loss": 1, "1 epoch: training loss": 1, "3 epochs: held-out error": 1,
            "3 epochs: training loss": 1}  # what a judge is multiplied by
UNITS = {"parameters": "thousand parameters", "MACs": "million MACs"}
COLOURS = ("tab:blue", "tab:orange")  # of the latencies
REST = "darkgrey"
HIGHEST_PCT = 30.0  # a network with more error would press all others together


def plot_judges(path: Path, nets: Sequence[Net], title: str) -> None:
    """PNG: a panel per judge, a dot per network, a colour per latency."""
    figure, every = new_figure(figsize=(12, 10)), judges()
    drawn = [net for net in nets if net.error_pct <= HIGHEST_PCT]
    left_out = f"; {len(nets) - len(drawn)} above {HIGHEST_PCT:g}% are not drawn" if len(drawn) < len(nets) else ""
    figure.suptitle(plain(title + left_out))
    groups = [(f"{r:.0%} of the latency removed", colour, [n for n in drawn if is_near(n, r)])
              for r, colour in zip(LATENCIES, COLOURS)]
    groups.append(("other", REST, [n for n in drawn if not any(is_near(n, r) for r in LATENCIES)]))
    grid = figure.subplots(3, 3, sharey=True)
    for axes, (name, factor) in zip(grid.flat, PICTURED.items()):
        for words, colour, of in groups:
            axes.plot([factor * every[name](n) for n in of], [n.error_pct for n in of], "o", color=colour, alpha=0.7,
                      markersize=5, label=words)
        found = [ranks.spearman([every[name](n) for n in of], [n.error_pct for n in of])
                 for of in (nets, *(hopeful(nets, r) for r in LATENCIES))]
        axes.set_title("Spearman {:.2f}; {:.2f} and {:.2f} at the latencies".format(*found), fontsize=10)
        axes.set_xlabel(UNITS.get(name, name) + (", %" if name.endswith("error") else ""))
        axes.grid(alpha=0.3)
    for row in grid:
        row[0].set_ylabel("error, retrained (%)")
    grid[0][0].legend(fontsize=8)
    write_figure(path, figure)
