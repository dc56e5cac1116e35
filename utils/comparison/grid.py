"""The grid of a comparison: smaller networks of the same architecture, of several depths, that meet the latencies."""

from collections.abc import Mapping, Sequence
from typing import Callable, Optional

from model.architectures import has_depths, narrower
from model.network import Network
from utils.common import cli
from utils.common.errors import UserError
from utils.latency import tables
from utils.latency.note import plain_dict
from utils.latency.table_files import read_note, table_path
from utils.latency.tables import Corrected


def networks(widest_network: Network, latency_s: Callable[[Network], float], depths: Sequence[int],
             budgets_s: Mapping[float, float]) -> dict[float, list[Network]]:
    """{pruning_fact: [the widest network of every depth that meets the budget]}.

    widest_network: the table's network, none is wider; latency_s: seconds of a network; budgets_s: {pruning_fact:
    seconds}. A network that is the widest for several budgets is listed for the smallest one only.
    """
    grids: dict[float, list[Network]] = {}
    for pruning_fact in sorted(budgets_s, reverse=True):
        grids[pruning_fact], budget_s = [], budgets_s[pruning_fact]
        for depth in depths if has_depths(widest_network) else (None,):
            network = widest(widest_network, latency_s, depth, budget_s)
            words = f"depth {depth}" if depth else "any depth"
            if network is None:
                print(f"no network of {words} is as fast as --pruning_facts {pruning_fact:g} asks for",
                      flush=True)
                continue
            if network.arguments["width"] == widest_network.arguments["width"]:
                print(f"grid, {words}: the table ends at width {network.arguments['width']:g}, "
                      f"{latency_s(network) / budget_s:.0%} of the latency that --pruning_facts {pruning_fact:g} "
                      "leaves; --grid_perf_table may name a wider one", flush=True)
            if not any(network in made for made in grids.values()):
                grids[pruning_fact].append(network)
    return grids


def widest(network: Network, latency_s: Callable[[Network], float], depth: Optional[int],
           budget_s: float) -> Optional[Network]:
    """The widest network of this depth (None: the architecture has none), no wider than ``network``, that takes at
    most ``budget_s`` seconds; None: none does."""
    try:
        return next((found for found in narrower(network, depth) if latency_s(found) <= budget_s), None)
    except ValueError as error:
        raise UserError(f"--grid_depths: {error}") from None


def open_table(name: str, base: Network) -> tuple[Network, Corrected]:
    """The network that a table's note names, and the table. Raises UserError unless the network differs from ``base``
    in depth and width only."""
    path = table_path(name)
    found = plain_dict(read_note(path).get("network"))
    sizes = {k: found.get(k) for k in ("depth", "width") if k in base.arguments}
    if found != {**base.arguments, **sizes} or not all(isinstance(v, (int, float)) for v in sizes.values()):
        raise UserError(f"{path}: expected the table of a network like {base.title}, of any depth and width, its "
                        f"note {path.with_suffix('.json').name} says {found or 'nothing of a network'}; build it with "
                        "compute_table.py --mode=build")
    try:
        network = cli.describe_or_fail(**found)
    except UserError as error:
        raise UserError(f"{path.with_suffix('.json')}: {error}") from error
    return network, tables.read_table(path, network)
