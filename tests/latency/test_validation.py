"""Validation: errors by the formula, the lower of two measurements, the probe's word on the machine."""

import os

import numpy as np
import pytest

from model.architectures import describe
from tests.helpers import arithmetic_table
from utils.latency import correction, validation
from utils.latency.note import Correction
from utils.latency.runners import Opened
from utils.latency.tables import corrected, latency_s
from utils.latency.timing import Care
from utils.latency.validation import Validation

SMALL = describe("res", depth=10, width=0.25)
NETWORKS = correction.judging_networks(SMALL, 3, 0)


def made(**more):
    return Validation(**{"table_s": np.array([1.0, 2.0]), "sums_s": np.array([1.5, 2.0]),
                         "first_s": np.array([1.1, 2.5]), "second_s": np.array([1.21, 2.0]), "ratio": 1.1,
                         "unsettled": 0, **more})


def test_errors_are_relative_to_the_lower_measurement():
    found = made().as_json()
    assert found["networks"] == [{"predicted_s": pytest.approx(1.1), "measured_s": 1.1},
                                 {"predicted_s": pytest.approx(2.2), "measured_s": 2.0}]
    assert found["mean_abs_error"] == pytest.approx(0.05) and found["max_abs_error"] == pytest.approx(0.1)
    assert found["without_probe"]["max_abs_error"] == pytest.approx(1 - 1 / 1.1)
    assert found["uncorrected"]["max_abs_error"] == pytest.approx(0.5)
    assert found["floor"] == {"mean_abs_error": pytest.approx((0.1 + 0.25) / 2),
                              "max_abs_error": pytest.approx(0.25)}
    assert found["correlation"] == pytest.approx(1.0) and found["probe_now_over_then"] == 1.1


def test_networks_that_are_all_alike_have_no_correlation():
    found = made(first_s=np.array([2.0, 2.0]), second_s=np.array([2.0, 2.0]))
    assert found.as_json()["correlation"] is None and list(found.lines())[-1].endswith("correlation unknown")


def test_a_noisy_machine_is_said():
    assert not any("did not settle" in line for line in made().lines())
    assert "a noisy machine: 1 of 2 networks did not settle" in "\n".join(made(unsettled=1).lines())


class Sized:
    """A runner of arithmetic: a nanosecond a byte, times ``factor``."""

    num_threads = 1

    def __init__(self, factor=1.0):
        self.factor = factor

    def open(self, model):
        size = len(model) if isinstance(model, bytes) else os.path.getsize(model)
        return Opened(lambda runs: [size * 1e-9 * self.factor] * runs)


def judged(factor=1.0, then=None, same_machine=True):
    note = {"correction": {"factor": 2.0, "overhead_s": 0.0}, **({"probe": {"usual_s": then}} if then else {})}
    care = Care(passes=2, runs=1, patience_s=0.0, short_wait_s=0.0)
    return validation.validate(SMALL, arithmetic_table(SMALL), note, NETWORKS, Sized(factor), care, num_images=1,
                               same_machine=same_machine)


def test_networks_are_timed_beside_corrected_and_plain_sums(monkeypatch):
    found, table = judged(), arithmetic_table(SMALL)
    plain = [latency_s(SMALL, w, table) for w in NETWORKS]
    np.testing.assert_allclose(found.sums_s, plain)
    np.testing.assert_allclose(found.table_s, [latency_s(SMALL, w, corrected(SMALL, table, Correction(2.0, 0.0)))
                                               for w in NETWORKS])
    sizes = [len(validation.whole_network(1, SMALL, w)) for w in NETWORKS]
    np.testing.assert_allclose(found.measured_s, 1e-9 * np.array(sizes), rtol=1e-6)
    assert found.slower == 1.0 and found.unsettled == 0 and found.floor.max() == 0


def test_the_probe_says_how_fast_the_machine_is_now_unless_it_is_another():
    size_s = 1e-9 * len(validation.variant(1, *validation.probe_entry(SMALL)))
    assert judged(1.1, then=size_s).slower == pytest.approx(1.1, rel=1e-3)
    assert judged(1.1, then=size_s, same_machine=False).slower == 1.0
    another = judged(2.0, then=size_s)  # twice as slow is another machine
    assert another.slower == 1.0 and another.as_json()["probe_now_over_then"] == pytest.approx(2.0, rel=1e-3)
    assert any("2.00 times as long" in line and "another machine" in line for line in another.lines())
    assert any(line.startswith("the probe is not compared") for line in judged(1.1).lines())
