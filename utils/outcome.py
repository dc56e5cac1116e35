"""From a finished measurement to the table and what its sidecar says: how it was measured, how noisy it was."""

from typing import Any, Dict, Iterator, List, Mapping, Optional

import numpy as np

from utils import calibration, sampling
from utils.latency_table import LatencyTable, corrected, latency_s
from utils.measuring import COPIES, Work
from utils.session import Care, State

NAMED = 5  # entries in the warning; the sidecar has them all


def finish(work: Work, care: Care, state: State, sample: Optional[sampling.Sample] = None):
    """The finished table, and what its sidecar says of how it came about."""
    seconds = state.result(care)
    entries, networks = seconds[:len(work.wanted)], seconds[len(work.wanted):].reshape(-1, COPIES).min(1)
    about = {**conditions(care, state), "statistic": "the lowest visit while the probe was as fast as usual; of a "
             "visit the 20th percentile of its runs", "smoothing": None, "noise": noise(work, care, state),
             "unsettled": unsettled(work, care, state)}
    if sample is None:
        table = work.grid.arrays(entries)
    else:
        table, about["sampling"] = sampling.fill(work.grid.network, sample, entries)
    if len(networks):
        about["correction"] = _calibrated(work, table, networks)
    return table, about


def _calibrated(work: Work, table: LatencyTable, networks_s: np.ndarray) -> Dict[str, Any]:
    """The correction of this table, for its sidecar, and how far off the sums are without it and with it."""
    network = work.grid.network
    correction = calibration.fit(network, work.networks, networks_s, table)
    about = {"factor": correction.factor, "overhead_s": correction.overhead_s, "networks": len(networks_s)}
    for name, sums in (("mean_abs_error_without", table), ("mean_abs_error_with", corrected(network, table, correction))):
        predicted = np.array([latency_s(network, w, sums) for w in work.networks])
        about[name] = _rounded(np.abs(predicted / networks_s - 1).mean())
    return about


def words(about: Mapping[str, Any]) -> Iterator[str]:
    """What whoever measured has to know, for the screen."""
    if "sampling" in about:
        error = about["sampling"]["error_on_held_out"]
        yield (f"filled in from a sample; off by {error['median']:.1%} (median), {error['p95']:.1%} (95th percentile) on "
               f"{error['entries']} entries measured and not used for the fit")
    if "correction" in about:
        found = about["correction"]
        yield (f"sums fitted to {found['networks']} whole networks: mean error {found['mean_abs_error_without']:.1%} "
               f"without, {found['mean_abs_error_with']:.1%} with the correction, which is in the sidecar")
    if about["unsettled"]:
        named = [f"{key} {entry}" for key, entries in about["unsettled"].items() for entry in entries.split()]
        more = " and so on" if len(named) > NAMED else ""
        yield (f"warning: a noisy machine: {len(named):,} entries did not settle within --spread and --drift: "
               f"{', '.join(named[:NAMED])}{more}; the sidecar names all. Their lowest visit stands; a quiet machine, or "
               "another pass merged by the median, gives better ones")


def unsettled(work: Work, care: Care, state: State) -> Dict[str, str]:
    """The entries that did not settle within the limit of visits: {key: "cin->cout cin->cout ..."}."""
    found: Dict[str, List[str]] = {}
    for item in np.flatnonzero(state.unsettled(care)[:len(work.wanted)]):
        key, cin, cout = work.label(int(item))
        found.setdefault(key, []).append(f"{cin}->{cout}")
    return {key: " ".join(entries) for key, entries in found.items()}


def noise(work: Work, care: Care, state: State) -> Dict[str, Dict[str, Any]]:
    """By key, how far apart two visits of an entry are, relative: the first two as measured, and the two it rests on."""
    wanted = len(work.wanted)
    apart = {"first_two_passes": state.seconds[:2], "kept": state.lowest(care.drift)}
    found: Dict[str, Dict[str, Any]] = {}
    which = np.searchsorted(work.grid.starts, work.wanted, side="right") - 1
    for name, visits in apart.items():
        if len(visits) < 2:
            continue
        low_, high = np.minimum(*visits[:, :wanted]), np.maximum(*visits[:, :wanted])  # NaN where one is missing
        relative = high / low_ - 1
        for number, table in enumerate(work.grid.tables):
            values = relative[(which == number) & np.isfinite(relative)]
            if len(values):
                found.setdefault(table.key, {})[name] = {
                    "median": _rounded(np.median(values)), "p95": _rounded(np.quantile(values, 0.95))}
    return found


def conditions(care: Care, state: State) -> Dict[str, Any]:
    """What the machine did meanwhile: the probe, the blocks that did not count, temperature and throttling."""
    off = state.off_blocks(care.drift)
    about: Dict[str, Any] = {
        "probe": {"times": len(state.probes), "usual_s": _rounded(state.usual_s, 9),
                  "median_s": _rounded(np.median(state.probes), 9), "slowest_s": _rounded(max(state.probes), 9),
                  "off": _rounded(off.mean())},
        "visits": int(state.count.sum()),
        "visits_measured_again": int(max(state.count.sum() - care.passes * len(state.count), 0)),
        "throttled_probes": sum(state.throttled), "max_temp_c": care.max_temp_c, "paused_s": round(state.paused_s, 1)}
    if state.temperatures:
        about["temperature_c"] = {"lowest": min(state.temperatures), "highest": max(state.temperatures)}
    return about


def _rounded(value: float, digits: int = 4) -> float:
    return round(float(value), digits)
