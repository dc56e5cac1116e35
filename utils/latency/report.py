"""From a finished measurement to the table and its note: how it was measured, how noisy it was."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Callable, Optional

import numpy as np

from model.network import Widths
from utils.latency import board, references
from utils.latency.correction import fit_correction
from utils.latency.measure import Begun, Work
from utils.latency.sensors import Throttling
from utils.latency.table_files import LatencyTable
from utils.latency.tables import corrected, latency_s
from utils.latency.timing import Care, Visits
from utils.latency.told import in_words

NAMED = 5  # entries in the warning; the note has them all


Fill = Callable[[np.ndarray], tuple[LatencyTable, dict[str, Any]]]


def finish(care: Care, begun: Begun, fill: Fill,
           printed: Optional[str] = None) -> tuple[LatencyTable, dict[str, Any]]:
    """The finished table, and the part of its note on how it was measured and computed.

    fill(seconds by entry): the whole table, and what the note says of how it was filled in. printed: the statistic of
    its runs that the tool printed for a visit; None: it gave every run.
    """
    work, visits = begun.work, begun.visits
    networks, entries = work.split(visits.result(care))
    of_a_visit = f"the {printed} of its runs, as the tool printed it" if printed else "the 20th percentile of its runs"
    now = board.conditions()
    unsettled = work.split(visits.unsettled(care) & (visits.count > 0))[1]  # not where the time ended before
    about = {**machine_meanwhile(care, visits, now.throttling), "conditions_at_end": now.as_json(),
             "statistic": f"the lowest visit while the probe was as fast as usual; of a visit {of_a_visit}",
             "smoothing": None, "noise": noise(work, care, visits),
             "unsettled": by_key(work, np.flatnonzero(unsettled) + work.first_entry),
             "other_delegates": {name: by_key(work, items) for name, items in _by_delegate(work, begun).items()}}
    table, filled = fill(entries)
    about.update(filled)
    here = np.flatnonzero(np.isfinite(networks).all(1))  # the others were not reached in time
    if len(here):
        timed, lowest = [work.networks[int(i)] for i in here], networks[here].min(1)
        about["correction"] = _correction(work, timed, table, lowest)
        about.update(references.noted(timed, lowest))
    return table, about


def _correction(work: Work, widths: Sequence[Widths], table: LatencyTable, networks_s: np.ndarray) -> dict[str, Any]:
    """The correction of this table, for its note, and how far off the sums are without it and with it."""
    network = work.entries.network
    correction = fit_correction(network, widths, networks_s, table)
    about = {"factor": correction.factor, "overhead_s": correction.overhead_s, "networks": len(networks_s)}
    about.update({key: value for key, value in (("weight_s", correction.weight_s),
                                                ("cached_weights", correction.cached_weights)) if value})
    for name, sums in (("mean_abs_error_without", table),
                       ("mean_abs_error_with", corrected(network, table, correction))):
        predicted = np.array([latency_s(network, w, sums) for w in widths])
        about[name] = _rounded(np.abs(predicted / networks_s - 1).mean())
    return about


def lines(about: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the user has to know about the measurement, in lines for the screen."""
    if "sampling" in about:
        error = about["sampling"]["error_on_held_out"]
        if error["entries"]:
            yield (f"filled in from a sample; off by {error['median']:.1%} (median), {error['p95']:.1%} (95th "
                   f"percentile) on {error['entries']} entries measured and not used for the fit")
        yield from _ended(about["sampling"])
    if "correction" in about:
        found = about["correction"]
        yield (f"sums fitted to {found['networks']} whole networks: mean error {found['mean_abs_error_without']:.1%} "
               f"without, {found['mean_abs_error_with']:.1%} with the correction, which is in the note")
    yield from _heat(about)
    for delegate, entries in about["other_delegates"].items():
        yield f"another delegate ({delegate}) than the rest ran {_some(entries)}"
    if about["unsettled"]:
        yield (f"warning: a noisy machine: {_some(about['unsettled'])} did not settle within --spread and --drift. "
               "Their lowest visit is used; a quiet machine, or several tables merged by the median, gives better "
               "figures")


WHY = {"max_error": "as good as --max_error={max_error:g} asked for", "all": "every entry is measured",
       "minutes": "--minutes={minutes:g} are used up",
       "no_gain": "the last entries did not make it better: a noisy machine, or what no sum of layers can tell"}


def _ended(sampling: Mapping[str, Any]) -> Iterator[str]:
    """Why a measurement in rounds ended, and how good it is."""
    if "stopped_by" not in sampling:
        return
    rounds, reused, expected = sampling["rounds"], sampling["reused"], sampling["expected_error"]
    again = {1: ", everything once more", 2: ", everything twice more"}.get(sampling.get("measured_again", 0), "")
    yield (f"{sampling['measured']:,} of {sampling['of']:,} entries, {rounds} round{'s' if rounds > 1 else ''}{again}"
           + (f", {reused:,} entries reused; " if reused else "; ")
           + ("how well whole networks are predicted is not known" if expected is None else
              f"whole networks are expected to be predicted within {expected:.1%} (mean; each within "
              f"{sampling['expected_worst']:.1%})")
           + f"; ended because {WHY[sampling['stopped_by']].format(**sampling)}")


def _heat(about: Mapping[str, Any]) -> Iterator[str]:
    """Heat, pauses and throttling."""
    heat, probes = about.get("temperature_c"), about["probe"]["times"]
    told = [f"{heat['lowest']:.0f} to {heat['highest']:.0f} °C" if heat else "temperature not known",
            f"{about['paused_s']:.0f} s of pauses to cool down"]
    slowed, words = about["throttled_probes"], ", ".join(about["throttled_by"])
    told.append("throttling not known" if slowed is None else
                f"throttled at {slowed:,} of {probes:,} probes" + (f" ({words})" if words else ""))
    yield f"the machine meanwhile: {', '.join(told)}"
    if slowed == probes:
        yield (f"warning: the machine was throttled throughout ({words}): the table is of the machine as slowed down. "
               "Correct the cause and measure again")
    before = [word for word in about["throttled_since_boot"] if word not in about["throttled_by"]]
    if before:
        yield f"since boot, but at no probe: {', '.join(before)}"


def _some(entries: Mapping[str, str]) -> str:
    """Some of the entries of ``by_key`` in words."""
    named = [f"{key} {entry}" for key, of_key in entries.items() for entry in of_key.split()]
    more = " and so on; the note names all" if len(named) > NAMED else ""
    return f"{len(named):,} entries ({', '.join(named[:NAMED])}{more})"


def by_key(work: Work, items: Iterable[int]) -> dict[str, str]:
    """Items by their tables, as ``in_words``."""
    return in_words(work.label(int(item)) for item in items)


def _by_delegate(work: Work, begun: Begun) -> dict[str, list[int]]:
    """The entries that other kernels ran than the rest: {delegate: items}."""
    found: dict[str, list[int]] = {}
    for item, delegate in sorted(begun.delegates.items()):
        if item >= work.first_entry and delegate != begun.header.get("delegate"):
            found.setdefault(delegate, []).append(item)
    return found


def noise(work: Work, care: Care, visits: Visits) -> dict[str, dict[str, Any]]:
    """By key, the relative difference of two visits of an entry: the first two, and the two lowest that count."""
    apart = {"first_two_passes": visits.seconds[:2], "kept": visits.lowest(care.drift)}
    found: dict[str, dict[str, Any]] = {}
    which = work.entries.table_of(work.wanted)
    for name, two in apart.items():
        if len(two) < 2:
            continue
        of_entries = two[:, work.first_entry:]
        low, high = np.minimum(*of_entries), np.maximum(*of_entries)  # NaN where one is missing
        relative = high / low - 1
        for number, table in enumerate(work.entries.tables):
            values = relative[(which == number) & np.isfinite(relative)]
            if len(values):
                found.setdefault(table.key, {})[name] = {
                    "median": _rounded(np.median(values)), "p95": _rounded(np.quantile(values, 0.95))}
    return found


def machine_meanwhile(care: Care, visits: Visits, throttling: Optional[Throttling]) -> dict[str, Any]:
    """The machine during the measurement: the probe, the blocks that did not count, temperature and throttling.

    throttling: as told at the end; None: nobody tells, so that its count is not known.
    """
    off = visits.off_blocks(care.drift)
    by_word = Counter(word for words in visits.throttled for word in words)
    about: dict[str, Any] = {
        "probe": {"times": len(visits.probes), "usual_s": _rounded(visits.usual_s, 9),
                  "median_s": _rounded(np.median(visits.probes), 9), "slowest_s": _rounded(max(visits.probes), 9),
                  "off": _rounded(off.mean())},
        "visits": int(visits.count.sum()),
        "visits_measured_again": int((visits.count - care.passes).clip(0).sum()),
        "throttled_probes": sum(map(bool, visits.throttled)) if throttling or by_word else None,
        "throttled_by": dict(by_word), "throttled_since_boot": list((throttling and throttling.since_boot) or ()),
        "elapsed_s": round(visits.elapsed_s, 1), "max_temp_c": care.max_temp_c, "paused_s": round(visits.paused_s, 1)}
    if visits.temperatures:
        about["temperature_c"] = {"lowest": min(visits.temperatures), "highest": max(visits.temperatures)}
    return about


def _rounded(value: float, digits: int = 4) -> float:
    return round(float(value), digits)
