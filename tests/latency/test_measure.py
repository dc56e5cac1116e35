"""A measurement's journal: what was measured is never measured again, and nothing foreign is taken for it."""

import numpy as np
import pytest

from model.architectures import describe
from tests.helpers import NETWORKS
from utils.common import journal
from utils.common.errors import UserError
from utils.common.provenance import stamp
from utils.latency import measure
from utils.latency.entries import Entries
from utils.latency.measure import COPIES, Source, Work
from utils.latency.runners import Opened
from utils.latency.timing import Care

SMALL = describe("res", depth=10, width=0.0625)
CARE = Care(passes=2, runs=3, max_visits=3)
HEADER = {**stamp(measure.FORMAT), "network": SMALL.arguments, "seed": 0}


def work(network=SMALL, wanted=None, networks=2):
    entries = Entries(network)
    return Work(entries, np.arange(len(entries)) if wanted is None else np.array(wanted),
                [dict(network.full_widths) for _ in range(networks)])


@pytest.mark.parametrize("name", NETWORKS)
def test_every_item_has_a_label_that_leads_back_to_it(name):
    for every in (work(NETWORKS[name], wanted=[0, 3, 5, 8]), work(NETWORKS[name], networks=0)):
        labels = [every.label(item) for item in range(len(every))]
        assert [every.item(label) for label in labels] == list(range(len(every)))
    assert len(work(NETWORKS[name])) == len(Entries(NETWORKS[name])) + 2 * COPIES


@pytest.mark.parametrize("label", [
    ["Nothing", 1, 1], ["FC", 0, 1], ["FC", 99, 1], ["network", 2, 0], ["network", 0, COPIES], ["network", -1, 0],
    ["FC", 1.0, 10], ["FC", True, 10], ["FC", 1], [], ["FC", "1", 10], [["FC"], 1, 10]])
def test_a_label_of_nothing_is_refused(label):
    with pytest.raises((KeyError, TypeError, ValueError)):
        work().item(label)


def test_an_entry_that_is_not_in_the_sample_is_no_item():
    some = work(wanted=[1])
    with pytest.raises(KeyError):
        some.item(work().label(work().first_entry))


def test_a_journal_of_before_statistics_were_noted_goes_on_with_medians_alone(tmp_path):
    path, every = tmp_path / "t.journal", work()
    measure.open_journal(path, HEADER, every, CARE, resume=False)
    measure.open_journal(path, {**HEADER, "visit_statistic": "median"}, every, CARE, resume=True)
    with pytest.raises(UserError, match="t.journal: began with visit_statistic 'median', now 'min'; resume it as it"):
        measure.open_journal(path, {**HEADER, "visit_statistic": "min"}, every, CARE, resume=True)


def test_what_was_measured_is_taken_up_again(tmp_path):
    path, every = tmp_path / "t.journal", work()
    begun = measure.open_journal(path, HEADER, every, CARE, resume=False)
    assert begun.header["began"] and begun.visits.count.sum() == 0
    with journal.Journal(path) as log:
        log.append({"probe": [1e-5, 2e-5], "temperature_c": 50.5})
        for item, runs in ((0, [3e-5, 1e-5]), (len(every) - 1, [4e-5]), (0, [2e-5])):
            log.append([*every.label(item), runs])
        log.append({"probe": [1e-5], "paused_s": 2.0, "throttled": True})  # as older versions wrote it
        log.append({"probe": [1e-5], "throttled": ["under-voltage", "throttled"], "at_s": 4.0})
        log.append({"delegate": "none", "of": every.label(3)})
    again = measure.open_journal(path, {**HEADER, "conditions": {"load": 1.0}}, every, CARE, resume=True)
    visits = again.visits
    assert again.header == begun.header and again.delegates == {3: "none"}  # with the time it began, too
    assert visits.count[0] == 2 and visits.count[-1] == 1 and visits.count.sum() == 3
    assert visits.seconds[:2, 0] == pytest.approx([1e-5, 2e-5]) and visits.seconds[0, -1] == pytest.approx(4e-5)
    assert visits.temperatures == [50.5] and visits.paused_s == 2.0
    assert visits.throttled == [(), ("throttled",), ("under-voltage", "throttled")] and visits.elapsed_s == 4.0


def test_a_delegate_that_one_does_not_tell_counts_as_equal_with_a_word(tmp_path, capsys):
    for number, (then, now) in enumerate([({}, {"delegate": "none"}), ({"delegate": "none"}, {})]):
        path = tmp_path / f"t{number}.journal"
        measure.open_journal(path, {**HEADER, **then}, work(), CARE, resume=False)
        measure.open_journal(path, {**HEADER, **now}, work(), CARE, resume=True)
        assert capsys.readouterr().err == f"note: {path}: delegate not told, and taken to be equal\n"
    measure.open_journal(path, {**HEADER, "delegate": "XNNPACK"}, work(), CARE, resume=False)
    with pytest.raises(UserError, match="began with delegate 'XNNPACK', now 'none'"):
        measure.open_journal(path, {**HEADER, "delegate": "none"}, work(), CARE, resume=True)


@pytest.mark.parametrize("line", [["FC", 1, 9, [1e-5]], ["FC", 1, 10, []], ["FC", 1, 10, [0.0]], ["FC", 1, 10, [1]],
                                  ["FC", 1, 10, ["x"]], ["FC", 1, 10], {"probe": []}, {"probe": [-1.0]}, {}, "x", 3,
                                  None, {"probe": [1e-5], "temperature_c": "hot"},
                                  {"probe": [1e-5], "paused_s": 1e10}, {"delegate": "none"},
                                  {"delegate": "none", "of": ["FC", 1, 9]}, {"delegate": "none", "of": 3}])
def test_a_line_that_makes_no_sense_is_named(tmp_path, line):
    path = tmp_path / "t.journal"
    measure.open_journal(path, HEADER, work(), CARE, resume=False)
    with journal.Journal(path) as log:
        log.append(["FC", 1, 10, [1e-5]])
        log.append(line)
    with pytest.raises(UserError, match="t.journal: line 3 is no measurement of this network"):
        measure.open_journal(path, HEADER, work(), CARE, resume=True)


def test_an_unfinished_measurement_is_not_written_over_and_a_finished_one_is(tmp_path):
    path = tmp_path / "t.journal"
    measure.open_journal(path, HEADER, work(), CARE, resume=False)
    measure.open_journal(path, HEADER, work(), CARE, resume=False)  # nothing measured yet
    with journal.Journal(path) as log:
        log.append(["FC", 1, 10, [1e-5]])
    with pytest.raises(UserError, match="an unfinished measurement, 1 visits; add --resume to go on, or remove it"):
        measure.open_journal(path, HEADER, work(), CARE, resume=False)
    with journal.Journal(path) as log:
        log.append({"finished": "today"})
    assert measure.open_journal(path, HEADER, work(), CARE, resume=False).visits.count.sum() == 0


class Stopwatch:
    """A runner of arithmetic: a model is what it takes, in seconds, as text."""

    num_threads = 1

    def __init__(self):
        self.opened = []

    def open(self, model):
        self.opened.append(model)
        return Opened(lambda runs: [float(model)] * runs, "none" if model == b"4e-06" else "XNNPACK")


def test_a_session_measures_every_item_into_the_journal(tmp_path):
    path, every, runner = tmp_path / "t.journal", work(), Stopwatch()
    begun = measure.open_journal(path, {**HEADER, "delegate": "XNNPACK"}, every, CARE, resume=False)
    source = Source(lambda table, cin, cout: f"{1e-6 * (cin + cout)}".encode(), lambda network, widths: b"0.001")
    visits = begun.visits
    with journal.Journal(path) as log:
        measure.session(source, runner, CARE, begun, log).run()
    read = measure.open_journal(path, {**HEADER, "delegate": "XNNPACK"}, every, CARE, resume=True)
    np.testing.assert_array_equal(read.visits.result(CARE), visits.result(CARE))
    assert read.delegates == begun.delegates and read.delegates
    assert {sum(every.label(item)[1:]) for item in read.delegates} == {4}  # those whose model says so
    for item in (every.first_entry, every.first_entry + 5, len(every) - 1):
        _, cin, cout = every.label(item)
        assert visits.result(CARE)[item] == pytest.approx(1e-6 * (cin + cout))
    assert visits.result(CARE)[:2 * COPIES] == pytest.approx([1e-3] * 2 * COPIES)
