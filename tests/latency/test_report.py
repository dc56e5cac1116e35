"""From visits to a table and its note: what did not settle is named, and the correction is the fitted one."""

import numpy as np
import pytest

from model.architectures import describe
from utils.latency import correction, report
from utils.latency.entries import Entries
from utils.latency.measure import COPIES, Begun, Work
from utils.latency.note import Correction
from utils.latency.references import references_in
from utils.latency.sensors import Throttling
from utils.latency.tables import corrected, latency_s
from utils.latency.timing import Care, Visits

SMALL = describe("res", depth=10, width=0.25)
CARE = Care(passes=2, runs=3, max_visits=4)
STILL = "the machine meanwhile: temperature not known, 0 s of pauses to cool down, throttling not known"


def finish(work, visits, delegates=None):
    begun = Begun({"delegate": "XNNPACK"}, work, visits, delegates or {})
    return report.finish(CARE, begun, lambda seconds: (work.entries.arrays(seconds), {}))


def finished(networks=0, restless=(), truth=None, probes=((1e-5, {}), (1e-5, {}))):
    """Two passes over the table, in which entries take 10 µs and a little more each; those in ``restless`` take twice
    as long the second time."""
    entries = Entries(SMALL)
    work = Work(entries, np.arange(len(entries)), correction.fitting_networks(SMALL, networks, 0))
    visits = Visits(len(work), CARE.max_visits)
    table = entries.arrays(1e-5 + 1e-8 * np.arange(len(entries)))
    seconds = [*(latency_s(SMALL, w, corrected(SMALL, table, truth)) for w in work.networks for _ in range(COPIES)),
               *(1e-5 + 1e-8 * np.arange(len(entries)))]
    for number in range(2):
        probe, more = probes[number]
        visits.add_probe({"probe": [probe], **more})
        for item, figure in enumerate(seconds):
            visits.add_visit(item, figure * (2 if number and item in restless else 1))
    return work, visits, table


def test_the_table_is_what_was_measured():
    work, visits, table = finished()
    found, about = finish(work, visits)
    assert found.keys() == SMALL.tables.keys() and "correction" not in about and about["unsettled"] == {}
    for key, array in table.items():
        np.testing.assert_allclose(found[key], array, rtol=1e-6)  # visits are kept in float32
    assert about["visits"] == 2 * len(work) and about["visits_measured_again"] == 0
    assert about["noise"]["FC"]["first_two_passes"] == {"median": 0.0, "p95": 0.0}
    assert list(report.lines(about)) == [STILL]


def test_what_did_not_settle_is_named_by_channels_and_the_lowest_visit_stands():
    work, visits, table = finished(restless=range(6))
    found, about = finish(work, visits)
    key, *_ = work.label(0)
    assert about["unsettled"] == {key: " ".join(f"{cin}->{cout}" for _, cin, cout in map(work.label, range(6)))}
    np.testing.assert_allclose(found[key], table[key], rtol=1e-6)
    still, line = report.lines(about)
    assert still == STILL and line.startswith(f"warning: a noisy machine: 6 entries ({key} 1->1, ")
    assert "and so on; the note names all) did not settle within --spread and --drift" in line
    work, visits, _ = finished(restless=range(report.NAMED))
    assert not any("and so on" in line for line in report.lines(finish(work, visits)[1]))


def test_entries_that_the_time_was_too_short_for_are_neither_noise_nor_measured():
    work, visits, _ = finished()
    visits.count[-5:], visits.seconds[:, -5:] = 0, np.nan
    begun = Begun({"delegate": "XNNPACK"}, work, visits, {})
    _, about = report.finish(CARE, begun, lambda seconds: (work.entries.arrays(np.ones(len(work))), {}))
    assert about["unsettled"] == {} and about["visits_measured_again"] == 0
    assert begun.measured == len(work) - 5


def test_entries_that_other_kernels_ran_are_named():
    work, visits, _ = finished()
    (key, *_), (_, cin, cout) = work.label(0), work.label(1)
    _, about = finish(work, visits, {1: "none", 0: "none", 2: "XNNPACK"})
    assert about["other_delegates"] == {"none": {key: f"1->1 {cin}->{cout}"}}
    assert list(report.lines(about)) == [
        STILL, f"another delegate (none) than the rest ran 2 entries ({key} 1->1, {key} {cin}->{cout})"]


def test_the_correction_is_fitted_and_said():
    work, visits, _ = finished(networks=20, truth=Correction(1.1, 0.0))
    _, about = finish(work, visits)
    found = about["correction"]
    assert found["factor"] == pytest.approx(1.1, rel=1e-2) and found["networks"] == 20
    assert found["mean_abs_error_without"] == pytest.approx(1 - 1 / 1.1, abs=1e-3)
    assert found["mean_abs_error_with"] < 0.01
    known = references_in(about, SMALL)
    assert known.networks == tuple(work.networks)
    np.testing.assert_allclose(known.seconds, work.split(visits.result(CARE))[0].min(1))
    line, _ = report.lines(about)
    assert line == (f"sums fitted to 20 whole networks: mean error 9.1% without, {found['mean_abs_error_with']:.1%} "
                    "with the correction, which is in the note")


def test_what_the_machine_did_meanwhile_is_in_the_note():
    hot = {"temperature_c": 71.0, "throttled": ["under-voltage", "throttled"], "paused_s": 3.25, "at_s": 7.0}
    work, visits, _ = finished(probes=((1e-5, {"temperature_c": 50.0, "at_s": 0.0}), (2e-5, hot)))
    about = report.machine_meanwhile(CARE, visits, Throttling((), ("under-voltage", "frequency capped"), "a test"))
    assert about["probe"]["times"] == 2 and about["probe"]["slowest_s"] == pytest.approx(2e-5)
    assert about["throttled_probes"] == 1 and about["throttled_by"] == {"under-voltage": 1, "throttled": 1}
    assert about["paused_s"] == 3.2 and about["elapsed_s"] == 7.0
    assert about["temperature_c"] == {"lowest": 50.0, "highest": 71.0} and about["probe"]["off"] == 1.0
    assert list(report.lines({**about, "unsettled": {}, "other_delegates": {}})) == [
        "the machine meanwhile: 50 to 71 °C, 3 s of pauses to cool down, throttled at 1 of 2 probes (under-voltage, "
        "throttled)", "since boot, but at no probe: frequency capped"]


def test_a_session_that_was_throttled_throughout_is_called_that():
    slow = (1e-5, {"throttled": ["under-voltage"]})
    about = report.machine_meanwhile(CARE, finished(probes=(slow, slow))[1], None)
    first, second = report.lines({**about, "unsettled": {}, "other_delegates": {}})
    assert "throttled at 2 of 2 probes (under-voltage)" in first
    assert second.startswith("warning: the machine was throttled throughout (under-voltage): ")


def test_what_nobody_tells_is_not_known():
    about = report.machine_meanwhile(CARE, finished()[1], None)
    assert about["throttled_probes"] is None
    about = report.machine_meanwhile(CARE, finished()[1], Throttling((), None, "a test"))
    assert about["throttled_probes"] == 0
    assert list(report.lines({**about, "unsettled": {}, "other_delegates": {}})) == [
        STILL.replace("throttling not known", "throttled at 0 of 2 probes")]


FEW = {"error_on_held_out": {"entries": 0}, "measured": 1234, "of": 56789, "rounds": 3, "reused": 0, "max_error": 0.02,
       "minutes": 10.0, "expected_error": 0.0179, "expected_worst": 0.0512}


EXPECTED = "whole networks are expected to be predicted within 1.8% (mean; each within 5.1%)"


@pytest.mark.parametrize("change, line", [
    ({"stopped_by": "max_error"},
     f"1,234 of 56,789 entries, 3 rounds; {EXPECTED}; ended because as good as --max_error=0.02 asked for"),
    ({"stopped_by": "minutes", "reused": 1000},
     f"1,234 of 56,789 entries, 3 rounds, 1,000 entries reused; {EXPECTED}; ended because --minutes=10 are used up"),
    ({"stopped_by": "minutes", "rounds": 1, "expected_error": None},
     "1,234 of 56,789 entries, 1 round; how well whole networks are predicted is not known; ended because --minutes=10 "
     "are used up"),
    ({"stopped_by": "all"}, f"1,234 of 56,789 entries, 3 rounds; {EXPECTED}; ended because every entry is measured")])
def test_why_a_measurement_in_rounds_ended_is_said(change, line):
    work, visits, _ = finished()
    found = list(report.lines({**finish(work, visits)[1], "sampling": {**FEW, **change}}))
    assert found[0] == line and found[1:] == [STILL]


def test_networks_that_the_time_was_too_short_for_do_not_count():
    work, visits, _ = finished(networks=20, truth=Correction(1.1, 0.0))
    visits.seconds[:, COPIES * 12:COPIES * 20 - 1] = np.nan  # of the last network only one copy is there
    found = finish(work, visits)[1]["correction"]
    assert found["networks"] == 12 and found["factor"] == pytest.approx(1.1, rel=1e-2)
