"""What a run began with is gone on with, where nothing else is asked for."""

import pytest

from utils.learning.settings import Compute

ASKED = Compute("auto", "auto", None, 0)


def test_an_unfinished_run_keeps_its_precision_and_threads():
    assert ASKED.as_begun({"precision": "bf16", "threads": 3}) == Compute("auto", "bf16", 3, 0)


def test_what_is_asked_for_goes_first():
    asked = Compute("cpu", "fp32", 2, 7)
    assert asked.as_begun({"precision": "bf16", "threads": 3}) == asked


@pytest.mark.parametrize("flags", [{}, {"precision": "auto", "threads": None}, {"precision": 3, "threads": "4"},
                                   {"precision": "fp8", "threads": 0}, {"threads": -1}, {"threads": True}])
def test_what_makes_no_sense_is_not_taken_up(flags):
    assert ASKED.as_begun(flags) == ASKED
