"""Tables measured in rounds, by a stand-in whose figures are fixed: what is measured next, when it ends, resuming."""

import pickle

import numpy as np
import pytest

from model.network import Group, Input, Network
from model.operators import Node, units
from utils.common import journal
from utils.common.errors import UserError
from utils.latency import correction, few, large, measure
from utils.latency.entries import Entries
from utils.latency.measure import Source, Work
from utils.latency.note import Correction
from utils.latency.points import Plane
from utils.latency.runners import Opened
from utils.latency.table_files import read_arrays, read_measured, write_large
from utils.latency.tables import corrected, filter_weights, latency_s
from utils.latency.timing import Care

GROUPS = (Group("image", 3, prunable=False), Group("a", 64), Group("b", 96), Group("c", 80, removable=True),
          Group("classes", 10, prunable=False))
NODES = (Node("stem", "conv", ("image",), units("a"), kernel=3, activation="relu"),
         Node("wide", "conv", ("stem",), units("b"), kernel=3, stride=2, activation="relu"),
         Node("branch", "conv", ("wide",), units("c"), kernel=3, activation="relu"),
         Node("back", "conv", ("branch",), units("b")),
         Node("sum", "add", ("wide", "back")),
         Node("mean", "adaptive_average_pool", ("sum",)), Node("flat", "flatten", ("mean",)),
         Node("logits", "linear", ("flat",), units("classes"), bias=True))
NETWORK = Network({"net": "toy"}, (Input("image", "image", 16),), GROUPS, NODES)
CARE = Care(passes=2, runs=3, max_visits=3)
TRUTH = Correction(1.05, 4e-7, 3e-10)
HEADER = {"network": "toy"}
GOAL = few.Goal(0.02, 10.0)


def kernel_s(table):
    """Seconds of an operator at every width: tiles of 8 output channels."""
    plane = Plane(table)
    outs = np.ceil(plane.cout / 8) * 8
    size = np.prod(table.sides) * max(table.weights_per_channel, 0.1)
    return (2e-6 + 1e-11 * size * np.outer(plane.cin, outs)).reshape(table.shape)


TABLE = {key: kernel_s(table) for key, table in NETWORK.tables.items()}
REAL = corrected(NETWORK, TABLE, TRUTH)


class Stopwatch:
    """Gives the seconds that a model is, and counts what was opened."""

    num_threads = 1

    def __init__(self):
        self.opened = []

    def open(self, model):
        self.opened.append(model)
        return Opened(lambda runs: [float(model.split()[-1])] * runs)


def entry(table, cin, cout):
    row, column = table.index(cin, cout)
    return f"{table.key} {cin} {cout} {TABLE[table.key][row, column]}".encode()


def source(spoilt=0.0):
    """spoilt: by how much the time of a whole network differs from any sum, relative, up or down."""
    def network(of, widths):
        sign = 1 if sum(widths.values()) % 2 else -1
        return f"network {latency_s(of, widths, REAL) * (1 + sign * spoilt)}".encode()
    return Source(entry, network)


def measured(path, goal=GOAL, *, resume=False, spoilt=0.0, networks=20, reused=None, clock=None):
    calibrating = correction.fitting_networks(NETWORK, networks, 0)
    work = Work(Entries(NETWORK), np.zeros(0, np.int64), (), copies=1)
    begun = measure.open_journal(path, HEADER, work, CARE, resume=resume, noted=few.noted(calibrating))
    runner = Stopwatch()
    with journal.Journal(path) as log:
        going = few.Measurement(begun, CARE, goal, calibrating, source(spoilt), runner, log,
                                **({"clock": clock} if clock else {}))
        known, reason = going.run(reused or {})
    return known, reason, going, runner


def test_it_ends_as_soon_as_networks_are_predicted_well(tmp_path):
    known, reason, going, _ = measured(tmp_path / "t.journal")
    assert reason == "max_error" and known.expected < 0.02 and known.worst < 0.06 and len(going.rounds) >= 2
    wide = [one for key, one in known.operators.items() if one.fit and key.startswith("conv_3x3")]
    assert len(wide) == 3 and all(one.fit.tiles == (1, 8) for one in wide)
    about = {**known.about(), **going.about()}
    assert about["measured"] < 0.05 * about["of"] and about["networks"] == 20 and about["reused"] == 0
    found = large.arrays(known.operators)
    for key, array in TABLE.items():
        assert np.median(np.abs(found[key] / array - 1)) < 0.03, key
    widths, seconds = going.networks()
    fitted = correction.fit_correction(NETWORK, widths, seconds, found)
    judged = correction.judging_networks(NETWORK, 30, 9)
    errors = [latency_s(NETWORK, w, corrected(NETWORK, found, fitted)) / latency_s(NETWORK, w, REAL) - 1
              for w in judged]
    assert np.mean(np.abs(errors)) < 0.02


def test_a_smaller_error_asked_for_takes_more_entries_where_they_weigh_most(tmp_path):
    known, reason, going, _ = measured(tmp_path / "t.journal", few.Goal(1e-4, 10.0))
    assert reason in ("no_gain", "all") and len(going.rounds) > 3
    third = going.rounds[2]["entries"]
    costly, cheap = "conv_3x3_same_at_8x8_relu", "conv_1x1_same_at_8x8"
    assert {costly, cheap} <= set(NETWORK.tables)
    assert len(third.get(costly, [])) > len(third.get(cheap, []))


def test_what_no_sum_can_tell_ends_it_as_well(tmp_path):
    known, reason, going, _ = measured(tmp_path / "t.journal", spoilt=0.1)
    assert reason == "no_gain" and known.expected > 0.05


def test_the_minutes_end_it(tmp_path):
    path = tmp_path / "t.journal"

    def clock():
        """An hour goes by as the third round begins."""
        return 3600.0 * (path.read_bytes().count(b'"round"') > 2)

    known, reason, going, _ = measured(path, few.Goal(1e-6, 10.0), clock=clock)
    assert reason == "minutes" and len(going.rounds) == 3
    assert sum(line.startswith(b"[") for line in path.read_bytes().splitlines()) < len(going.begun.work) * 2


def test_too_few_minutes_are_refused_with_how_many_it_takes(tmp_path):
    ticks = iter(np.arange(0, 1e6, 1.0))
    words = (r"^--minutes=0.5: a fit of this network needs \d+ entries and 12 whole networks, which take about [\d.]+ "
             r"minutes here; expected --minutes=[\d.]+ or more$")
    with pytest.raises(UserError, match=words):
        measured(tmp_path / "t.journal", few.Goal(0.02, 0.5), clock=lambda: float(next(ticks)))


def test_an_interruption_anywhere_changes_nothing(tmp_path):
    whole, reason, _, runner = measured(tmp_path / "whole.journal", few.Goal(0.005, 10.0))
    lines = (tmp_path / "whole.journal").read_bytes().splitlines(keepends=True)
    visits = sum(line.startswith(b"[") for line in lines)
    marks = [n for n, line in enumerate(lines) if b'"round"' in line or b'"networks"' in line or b'"stopped"' in line]
    cuts = {1, *marks, *(n + 1 for n in marks), *range(7, len(lines), len(lines) // 4)}
    for cut in sorted(c for c in cuts if c <= len(lines)):
        path = tmp_path / f"{cut}.journal"
        path.write_bytes(b"".join(lines[:cut]) + b'["torn')
        again, why, _, _ = measured(path, few.Goal(0.005, 10.0), resume=True)
        assert why == reason and large.fingerprint(again.operators) == large.fingerprint(whole.operators), cut
        assert again.about() == whole.about()
        after = path.read_bytes().splitlines(keepends=True)
        assert sum(line.startswith(b"[") for line in after) == visits, cut  # nothing is measured twice


def test_more_is_asked_of_a_table_that_is_finished(tmp_path):
    path = tmp_path / "t.journal"
    first, _, _, _ = measured(path)
    better, _, _, runner = measured(path, few.Goal(0.001, 10.0), resume=True)
    assert better.about()["measured"] > first.about()["measured"]
    _, _, _, idle = measured(path, few.Goal(0.001, 10.0), resume=True)
    assert idle.opened == []


def test_reused_entries_are_not_measured_but_for_a_few(tmp_path):
    first, _, _, _ = measured(tmp_path / "a.journal")
    numbers = Entries(NETWORK)
    known = {numbers.number(key, *map(int, table.entry(int(n)))): 2 * float(s)
             for key, one in first.operators.items() for table in (NETWORK.tables[key],)
             for n, s in zip(one.numbers, one.seconds)}
    with pytest.raises(UserError, match="--reuse: the entries of these tables take 0.50 times as long now"):
        measured(tmp_path / "b.journal", reused=known)
    again, _, going, runner = measured(tmp_path / "c.journal", reused={n: s / 2 * 1.1 for n, s in known.items()})
    opened = {m for m in runner.opened if not m.startswith(b"network")}
    assert len(opened) < 40 and going.about()["reused"] == len(known)
    for key, one in again.operators.items():
        here = np.isin(one.numbers, first.operators[key].numbers)
        np.testing.assert_allclose(one.seconds[here], first.operators[key].seconds, rtol=1e-6)  # at today's speed


def test_without_whole_networks_the_entries_say_how_good_it_is(tmp_path):
    known, reason, going, _ = measured(tmp_path / "t.journal", networks=0)
    assert reason in ("max_error", "no_gain") and going.about()["networks"] == 0 and known.expected > 0


def test_a_line_that_is_none_of_its_own_is_refused(tmp_path):
    path = tmp_path / "t.journal"
    measured(path)
    for line in ({"round": 9, "entries": {"nothing": [[1, 1]]}}, {"networks": "x"}, {"other": 1}):
        copy = tmp_path / "copy.journal"
        copy.write_bytes(path.read_bytes() + journal.line(line).encode())
        with pytest.raises(UserError, match="is no measurement of this network"):
            measured(copy, resume=True)


def test_its_file_is_plain_and_comes_back(tmp_path):
    known, _, _, _ = measured(tmp_path / "t.journal")
    path = tmp_path / "t.pickle"
    write_large(path, known.operators, {"operators": {}})
    content = pickle.loads(path.read_bytes())  # as in a notebook
    one = content["operators"]["conv_3x3_same_at_8x8_relu"]
    assert one["shape"] == [96, 80] and one["measured"]["seconds"].shape == one["measured"]["cin"].shape
    measured_again, note = read_measured(path)
    assert note == {"operators": {}, **{k: note[k] for k in note if k != "operators"}}
    assert large.fingerprint(measured_again) == large.fingerprint(known.operators)
    for key, array in read_arrays(path).items():
        np.testing.assert_array_equal(array, large.arrays(known.operators)[key])


@pytest.mark.parametrize("change, words", [
    ({"format": 2}, "its format is 2, this version reads 1: update this program"),
    ({"operators": {}}, "it has no operators"), ({"operators": {"a": {"shape": [1, 1]}}}, "a: 'cin'"),
    ({"operators": 3}, "'int' object has no attribute")])
def test_a_broken_file_is_refused_in_one_line(tmp_path, change, words):
    from utils.common.pickles import to_pickle
    path = tmp_path / "t.pickle"
    path.write_bytes(to_pickle({"format": 1, "operators": {}, **change}))
    with pytest.raises(UserError) as found:
        read_arrays(path)
    assert str(found.value).startswith(f"{path}: a table of few entries that cannot be read (") and words in str(
        found.value) and "\n" not in str(found.value)


def test_the_weights_that_a_network_reads_have_a_time():
    """The term is found where it is there, and left out where it does not help."""
    widths = correction.fitting_networks(NETWORK, 25, 0)
    for truth in (TRUTH, Correction(1.05, 4e-7)):
        real = corrected(NETWORK, TABLE, truth)
        noise = 1 + 0.003 * np.random.default_rng(1).standard_normal(len(widths))
        found = correction.fit_correction(NETWORK, widths, [latency_s(NETWORK, w, real) for w in widths] * noise, TABLE)
        assert found.weight_s == pytest.approx(truth.weight_s, rel=0.2, abs=0)
    weights = {key: filter_weights(t) for key, t in NETWORK.tables.items()}
    filters = sum(w.shape[0] * np.prod(w.shape[1:]) for w in NETWORK.weights(NETWORK.full_widths).values()
                  if len(w.shape) > 1)
    assert latency_s(NETWORK, NETWORK.full_widths, weights) == filters
