"""The grid of a comparison: smaller networks of the same architecture, of several depths, at the latencies asked for."""

from typing import Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from model.architectures import describe
from model.network import Network
from utils import cli, latency_table
from utils.errors import UserError

PER_WIDTH = 16  # widths are tried in sixteenths: a WideResNet of width k has 16k channels, a whole number


def networks(widest_network: Network, latency_s: Callable[[Network], float], depths: Sequence[int],
             budgets_s: Mapping[float, float]) -> Dict[float, List[Network]]:
    """{pruning_fact: of every depth the widest network, in sixteenths, that meets its budget}.

    widest_network: what the table is of, where widths end; latency_s: seconds of a network; budgets_s: {pruning_fact:
    seconds}. Of a shallow network the widest may be the answer to several latencies, and is then made for the least.
    """
    grids: Dict[float, List[Network]] = {}
    for pruning_fact in sorted(budgets_s, reverse=True):
        grids[pruning_fact], budget_s = [], budgets_s[pruning_fact]
        for depth in depths:
            network = widest(widest_network, latency_s, depth, budget_s)
            if network is None:
                print(f"no network of depth {depth} is as fast as --pruning_facts {pruning_fact:g} asks for", flush=True)
                continue
            if network.arguments["width"] == widest_network.arguments["width"]:
                print(f"grid, depth {depth}: the table ends at width {network.arguments['width']:g}, "
                      f"{latency_s(network) / budget_s:.0%} of the latency that --pruning_facts {pruning_fact:g} leaves; "
                      "--grid_perf_table may name a wider one", flush=True)
            if not any(network in made for made in grids.values()):
                grids[pruning_fact].append(network)
    return grids


def widest(network: Network, latency_s: Callable[[Network], float], depth: int, budget_s: float) -> Optional[Network]:
    """The widest network of this depth, no wider than ``network``, that takes at most ``budget_s`` seconds; None: none does."""
    for part in range(int(PER_WIDTH * network.arguments["width"]), 0, -1):
        try:
            found = describe(**{**network.arguments, "depth": depth, "width": part / PER_WIDTH})
        except ValueError as error:
            raise UserError(f"--grid_depths: {error}") from None
        if latency_s(found) <= budget_s:
            return found
    return None


def open_table(name: str, base: Network) -> Tuple[Network, latency_table.LatencyTable]:
    """The network that a table's note says it is of, and the table. Raises UserError unless widths and depths alone differ
    from ``base``."""
    path = latency_table.table_path(name)
    latency_table.read_arrays(path)  # a table that is not there is said first
    found = latency_table.plain_dict(latency_table.read_provenance(path).get("network"))
    sized = all(isinstance(found.get(k), (int, float)) for k in ("depth", "width"))
    if not sized or found != {**base.arguments, "depth": found["depth"], "width": found["width"]}:
        raise UserError(f"{path}: expected the table of a network like {latency_table.name_of(base)}, of any depth and width, its "
                        f"note {path.with_suffix('.json').name} says {found or 'nothing of a network'}; build it with "
                        "compute_table.py --mode=build")
    try:
        network = cli.describe_or_fail(**found)
    except UserError as error:
        raise UserError(f"{path.with_suffix('.json')}: {error}") from error
    return network, latency_table.read_table(path, network)
