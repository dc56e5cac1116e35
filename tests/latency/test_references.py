"""References: the networks of a build that are timed again show today's speed; an edited note has none."""

import os

import numpy as np
import pytest

from model.architectures import describe
from tests.helpers import arithmetic_table
from utils.latency import correction, validation
from utils.latency.references import AGAIN, References, noted, noted_of, references_in
from utils.latency.runners import Opened
from utils.latency.timing import Care

SMALL = describe("res", depth=10, width=0.25)
FITTED = correction.fitting_networks(SMALL, 8, 0)
NETWORKS = correction.judging_networks(SMALL, 3, 0)
PROBE = validation.variant(1, *validation.probe_entry(SMALL))


def test_the_networks_of_a_build_are_read_again_from_its_note():
    found = references_in(noted(FITTED, np.arange(1.0, 9.0)), SMALL)
    assert found.networks == tuple(FITTED) and found.seconds.tolist() == list(range(1, 9))
    assert found.again == tuple(FITTED[:AGAIN]) and found.again[0] == SMALL.full_widths


def test_what_the_table_is_off_by_is_not_taken_for_todays_speed():
    """A table that is 20% too high, a noisy time then and one now; the machine is 10% slower."""
    true_s = {SMALL.parameter_count(w): i + 1.0 for i, w in enumerate(FITTED)}
    then_s = np.array(list(true_s.values())) * [1, 1, 1.4, 1, 1, 1, 1, 1]
    now_s = 1.1 * np.array(list(true_s.values()))[:AGAIN] * [1, 1, 1, 1.3, 1, 1]
    found = References(tuple(FITTED), then_s).now_over_then(lambda w: 1.2 * true_s[SMALL.parameter_count(w)], now_s)
    assert found == pytest.approx(1.1)


SOUND = noted(FITTED[:3], np.array([1.0, 2.0, 3.0]))["references"]


@pytest.mark.parametrize("edited", [
    None, [], "3", {}, {"widths": {}}, {**SOUND, "widths": [[3, 4], None]}, {**SOUND, "widths": [[1], [2], [3]]},
    {**SOUND, "groups": SOUND["groups"][1:]}, {**SOUND, "groups": 3}, {**SOUND, "groups": [[]]},
    {**SOUND, "widths": [[10 ** 6] * len(SOUND["groups"])] * 3}, {**SOUND, "widths": []}, {**SOUND, "seconds": [1.0]},
    *({**SOUND, "seconds": [1.0, 2.0, s]} for s in (0.0, -1.0, 1e-320, 1e9, "1", True, None)), {**SOUND, "seconds": 3}])
def test_an_edited_note_has_no_references(edited):
    found = references_in({"references": edited}, SMALL)
    assert found.networks == () and len(found.seconds) == 0


def test_merged_notes_have_the_means_of_what_all_timed():
    one, two = (References(tuple(FITTED[:3]), np.array(s)) for s in ([1.0, 2.0, 3.0], [3.0, 6.0, 9.0]))
    assert references_in(noted_of([one, two]), SMALL).seconds.tolist() == [2.0, 4.0, 6.0]
    other = References(tuple(FITTED[1:4]), one.seconds)
    assert noted_of([one, other]) == {} == noted_of([References((), np.array([]))] * 2)


class Sized:
    """A runner of arithmetic: a nanosecond a byte; whole networks take ``factor`` times as long."""

    num_threads = 1

    def __init__(self, factor):
        self.factor = factor

    def open(self, model):
        whole = not isinstance(model, bytes)
        seconds = 1e-9 * (os.path.getsize(model) * self.factor if whole else len(model))
        return Opened(lambda runs: [seconds] * runs)


def judged(factor, same_machine=True):
    sizes = np.array([len(validation.whole_network(1, SMALL, w)) for w in FITTED])
    note = {"probe": {"usual_s": 1e-9 * len(PROBE)}, **noted(FITTED, 1e-9 * sizes)}
    care = Care(passes=2, runs=1, patience_s=0.0, short_wait_s=0.0)
    return validation.validate(SMALL, arithmetic_table(SMALL), note, NETWORKS, Sized(factor), care, num_images=1,
                               same_machine=same_machine)


def test_whole_networks_say_how_fast_the_machine_is_now_where_the_probe_does_not():
    found = judged(1.05)
    assert found.ratio == pytest.approx(1.0, rel=1e-3) and found.slower == pytest.approx(1.05, rel=1e-3)
    assert found.predicted_s == pytest.approx(1.05 * found.table_s, rel=1e-3)
    assert len(found.first_s) == len(found.second_s) == len(NETWORKS) and found.unsettled == 0
    assert found.as_json()["references_now_over_then"] == pytest.approx(1.05, rel=1e-3)
    assert any(line.startswith("whole networks of the build take +5.0% ") for line in found.lines())


def test_another_machine_or_tool_is_not_scaled():
    assert judged(2.0).slower == 1.0 and any("2.00 times as long" in line for line in judged(2.0).lines())
    otherwise = judged(1.05, same_machine=False)
    assert otherwise.slower == 1.0 and otherwise.of_references is None


def test_fewer_than_three_networks_tell_less_than_the_probe():
    assert references_in({"references": SOUND}, SMALL).again == tuple(FITTED[:3])
    assert references_in(noted(FITTED[:2], np.array([1.0, 2.0])), SMALL).again == ()
