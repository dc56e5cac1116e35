"""A table's note: what is read from it makes sense or counts as missing, and whether it is of this machine."""

import json

import pytest

from tests.helpers import SMALL
from utils.latency import note as notes
from utils.latency.note import Correction


@pytest.mark.parametrize("broken", ["1" + "0" * 400, "1e308", "1e-320", "-1", "NaN", '"x"', "[]", "{}", "true", "null"])
def test_a_note_that_makes_no_sense_is_no_note(broken):
    note = json.loads(f'{{"correction": {{"factor": {broken}, "overhead_s": 0}}, "probe": {{"usual_s": {broken}}}}}')
    assert notes.correction_in(note) is None and notes.probe_in(note) is None
    found = notes.correction_in({"correction": {"factor": 1, "overhead_s": note["probe"]["usual_s"]}})
    assert found is None or broken == "1e-320"


def test_what_a_sound_note_says():
    note = {"correction": {"factor": 1.1, "overhead_s": 2e-6}, "probe": {"usual_s": 3e-4}, "threads": 4,
            "runtime": "ai_edge_litert", "device": {"model": "A Board 3", "processor": "x"}}
    assert notes.correction_in(note) == Correction(1.1, 2e-6)
    assert (notes.probe_in(note), notes.threads_in(note)) == (3e-4, 4)
    assert notes.origin_in(note) == notes.origin_in({"measurements": [note, {}]}) == "A Board 3, ai_edge_litert"
    assert notes.origin_in({}) == "" and notes.origin_in({"measurements": "x", "device": 3}) == ""


@pytest.mark.parametrize("told", [None, "res", {}, {"net": "x"}, {"net": "res", "depth": "x"}, {"description": 3}])
def test_a_network_that_makes_no_sense_is_not_known(told):
    assert notes.network_in({"network": told}) is None and notes.network_in({}) is None
    assert notes.network_in({"network": SMALL.arguments}) == SMALL


@pytest.mark.parametrize("threads", [0, -1, 257, True, "4", 2.0, None])
def test_threads_that_make_no_sense_are_one(threads):
    assert notes.threads_in({"threads": threads}) == 1


def test_only_what_a_note_says_can_differ():
    now = {"runtime": "a", "threads": 2, "device": {"machine": "arm", "model": "B"}}
    found = list(notes.differences({"threads": 1, "device": {"model": "C"}, "more": 1}, now))
    assert found == ["measured with device C, judged with arm, B", "measured with threads 1, judged with 2"]


@pytest.mark.parametrize("key,then,now", [
    ("device", {"model": "A"}, {"model": "B"}), ("runtime", "ai_edge_litert", "tflite_runtime"),
    ("version", "1.4.0", "2.1.0"), ("delegate", "XNNPACK", "none"), ("threads", 1, 4), ("num_images", 1, 8),
    ("binary", "benchmark_model", "other"), ("binary_bytes", 10, 20), ("visit_statistic", "median", "min")])
def test_whatever_makes_figures_another_thing_is_reported(key, then, now, capsys):
    (line,) = notes.reported_differences("t.pickle", {key: then}, {key: now})
    assert capsys.readouterr().err == f"t.pickle: {line}\n" and line.startswith(f"measured with {key} ")
    assert notes.reported_differences("t.pickle", {key: then}, {key: then}) == []
    assert notes.reported_differences(f"{key}.pickle", {"more": 1}, {key: now}) == []
    assert capsys.readouterr().err == f"note: {key}.pickle: not told, and taken to be equal: {key}\n"
    assert notes.reported_differences("t.pickle", {}, {key: now}) == [] and capsys.readouterr().err == ""


def test_a_probe_that_differs_by_much_is_of_another_machine():
    assert [notes.alike(r) for r in (None, 0.7, 0.8, 1.0, 1.29, 1.31)] == [False, False, True, True, True, False]
    assert notes.at_todays_speed(2.0, 1.1) == pytest.approx(2.2)
    assert notes.at_todays_speed(2.0, 3.0) == notes.at_todays_speed(2.0, None) == 2.0
