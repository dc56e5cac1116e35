"""The care of a measurement, with a machine made of arithmetic: a clock that runs when something is timed."""

import numpy as np
import pytest

from utils.common.errors import UserError
from utils.latency import timing
from utils.latency.sensors import Reading, Throttling
from utils.latency.timing import Care, Session, Visits, low


class Machine:
    """Item i takes (i + 1) ms a run, the probe 1 ms; ``slow(clock)`` is the factor by which all takes longer."""

    def __init__(self, items, care=None, slow=lambda t: 1.0, temperature=lambda t: None, throttled=lambda t: ()):
        self.t, self.slow, self.visited, self.records, self.slept = 0.0, slow, [], [], 0.0
        self.temperature, self.throttled, care = temperature, throttled, care or Care()
        self.session = Session(care, Visits(items, care.max_visits), self.open, lambda runs: self.time(1e-3, runs),
                               lambda item, runs: self.records.append((item, runs)), self.records.append,
                               clock=lambda: self.t, sleep=self.sleep,
                               read_sensors=lambda: Reading(self.temperature(self.t),
                                                            Throttling(self.throttled(self.t), None, "a test")))

    def time(self, seconds, runs):
        found = []
        for _ in range(runs):
            found.append(seconds * self.slow(self.t))
            self.t += found[-1]
        return found

    def open(self, item):
        self.visited.append(item)
        return lambda runs: self.time((item + 1) * 1e-3, runs)

    def sleep(self, seconds):
        self.t += seconds
        self.slept += seconds

    def run(self):
        self.session.run()
        return self.session.visits.result(self.session.care)

    @property
    def visits(self):
        return self.session.visits


def exactly(items):
    return np.arange(1, items + 1) * 1e-3


def test_the_figure_of_a_visit_is_a_low_percentile_of_its_runs():
    assert low([9.0]) == 9 and low([5.0, 4.0]) == 4 and low([3.0, 1.0, 2.0, 9.0, 8.0, 7.0]) == 2
    assert low(list(range(11, 0, -1))) == 3


def test_a_quiet_machine_is_visited_in_two_random_passes():
    machine = Machine(50)
    np.testing.assert_allclose(machine.run(), exactly(50), rtol=1e-6)
    one, two = machine.visited[:50], machine.visited[50:]
    assert sorted(one) == sorted(two) == list(range(50)) and one != two != list(range(50)) != one
    assert machine.slept == 0
    assert len(machine.visits.probes) > 5  # all along: 100 visits of 6 runs take 15 s


def test_the_order_depends_on_the_seed_alone():
    orders = []
    for seed in (0, 0, 1):
        machine = Machine(20, Care(seed=seed))
        machine.run()
        orders.append(machine.visited)
    assert orders[0] == orders[1] != orders[2]


def test_what_was_measured_while_the_probe_was_off_is_measured_again():
    # 12 items, 2 passes: 2 * 78 * 6 runs of 1 ms; from second 0.2 to 0.6 everything takes 1.5 times as long
    machine = Machine(12, slow=lambda t: 1.5 if 0.2 < t < 0.6 else 1.0)
    np.testing.assert_allclose(machine.run(), exactly(12), rtol=1e-6)
    assert 24 < len(machine.visited) < 60
    assert not machine.visits.unsettled(machine.session.care).any()
    off = machine.visits.off_blocks(machine.session.care.drift)
    assert off.any() and not off.all()


def test_a_slow_stretch_that_the_probe_misses_shows_in_the_spread():
    calls = []

    def slow(t):  # only the third visit's runs, between two probes
        calls.append(t)
        return 3.0 if 5 + 12 <= len(calls) < 5 + 18 else 1.0
    machine = Machine(6, Care(probe_every_s=10), slow=slow)
    np.testing.assert_allclose(machine.run(), exactly(6), rtol=1e-6)
    assert len(machine.visited) == 13


def test_what_never_settles_is_visited_up_to_the_limit_and_said():
    random = np.random.default_rng(0)
    machine = Machine(4, Care(max_visits=5, spread=1e-6), slow=lambda t: random.uniform(1, 1.03))
    found = machine.run()
    assert machine.visits.count.max() == 5 and machine.visits.unsettled(machine.session.care).any()
    assert np.isfinite(found).all() and (found >= exactly(4) * 0.999).all()


def test_a_machine_that_stays_slow_is_waited_for_but_not_for_ever():
    machine = Machine(5, Care(patience_s=1), slow=lambda t: 1.0 if t < 0.1 else 1.4)
    found = machine.run()
    assert machine.slept == pytest.approx(1, abs=timing.WAIT_S)
    assert np.isfinite(found).all() and machine.visits.unsettled(machine.session.care).any()


def test_it_waits_until_the_machine_is_as_fast_as_usual_again():
    machine = Machine(5, Care(patience_s=30), slow=lambda t: 1.5 if 0.05 < t < 2 else 1.0)
    np.testing.assert_allclose(machine.run(), exactly(5), rtol=1e-6)
    assert 1 < machine.slept < 2.5


def test_a_usual_speed_that_is_known_from_before_counts():
    """The machine is slow from the start: only what is known tells; what is visited once it is fast again stands."""
    machine = Machine(5, Care(short_wait_s=10), slow=lambda t: 1.5 if t < 2 else 1.0)
    machine.session.visits.known_usual_s = 1e-3
    np.testing.assert_allclose(machine.run(), exactly(5), rtol=1e-6)
    assert 1 < machine.slept < 2.5


def test_it_waits_no_longer_than_it_measured():
    machine = Machine(5, Care(patience_s=1000), slow=lambda t: 1.0 if t < 0.1 else 1.4)
    machine.run()
    short_wait_s = machine.session.care.short_wait_s
    assert short_wait_s < machine.slept < short_wait_s + machine.t - machine.slept + timing.WAIT_S


def test_a_hot_board_pauses_and_a_throttled_one_does_not_count(capsys):
    def temperature(t):
        return 80.0 - machine.slept if t > 0.2 else 60.0
    machine = Machine(8, Care(max_temp_c=70.0), temperature=temperature)
    machine.run()
    assert 15 <= machine.slept <= 16 and machine.visits.paused_s >= 15
    assert max(machine.visits.temperatures) == 80
    assert "above --max_temp: pausing until 65 °C" in capsys.readouterr().err
    assert any(isinstance(r, dict) and r.get("paused_s", 0) >= 15 for r in machine.records)

    machine = Machine(8, throttled=lambda t: ("throttled",) if 0.1 < t < 0.4 else ())
    machine.run()
    assert machine.visits.throttled.count(("throttled",)) >= 2 and len(machine.visited) > 16
    assert not machine.visits.unsettled(machine.session.care).any()


def test_a_board_that_does_not_cool_is_an_error():
    machine = Machine(8, Care(max_temp_c=70.0), temperature=lambda t: 90.0)
    with pytest.raises(UserError, match="still 90 °C after 15 minutes of pause; cool the board or raise --max_temp"):
        machine.run()


def test_a_board_of_which_no_limit_is_known_is_never_paused():
    machine = Machine(8, temperature=lambda t: 120.0)
    machine.run()
    assert machine.slept == 0 and max(machine.visits.temperatures) == 120


def test_the_time_is_that_of_all_sessions():
    visits = Visits(1, 2)
    for at_s in (0.0, 3.0, 10.5, 0.0, 4.0, 2.0):  # three sessions; the third was resumed before its first probe
        visits.add_probe({"probe": [1.0], "at_s": at_s})
    assert visits.elapsed_s == 10.5 + 4.0 + 2.0
    visits.add_probe({"probe": [1.0]})  # of an older version
    assert visits.elapsed_s == 16.5
    machine = Machine(5)
    machine.run()
    assert 0 < machine.visits.elapsed_s == pytest.approx(machine.t, abs=0.1)


def test_a_session_taken_up_from_its_records_visits_nothing_twice():
    whole = Machine(30)
    whole.run()
    for cut in (1, 7, 30, 55, len(whole.records) - 1):
        again = Machine(30)
        done = []
        for record in whole.records[:cut]:
            if isinstance(record, dict):
                again.visits.add_probe(record)
            else:
                again.visits.add_visit(record[0], low(record[1]))
                done.append(record[0])
        np.testing.assert_allclose(again.run(), exactly(30), rtol=1e-6)
        assert done + again.visited == whole.visited


def test_one_pass_needs_no_second_opinion():
    machine = Machine(10, Care(passes=1, max_visits=4))
    machine.run()
    assert sorted(machine.visited) == list(range(10))


def test_a_slow_probe_comes_less_often():
    machine = Machine(40)
    machine.session.probe = lambda runs: machine.time(1.0, 1)  # a benchmark binary that has to start
    machine.run()
    assert len(machine.visits.probes) < 6
