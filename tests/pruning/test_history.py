"""The lines of a run's journal that are read back."""

import math

import pytest

from model.architectures import describe
from utils.pruning import history

NETWORK = describe("res", depth=10, width=0.5)
RECORD = history.judged(NETWORK, NETWORK.full_widths, 1e-3, 2, 1.0, 0.5)


def test_losses_are_read_back_by_the_network_its_epochs_and_its_part():
    diverged = history.judged(NETWORK, NETWORK.full_widths, 1e-3, 1, 1 / 3, math.inf)
    key = history.key_of(NETWORK.full_widths)
    assert history.losses_in([RECORD, diverged]) == {(key, 2, 1.0): 0.5, (key, 1, 1 / 3): math.inf}
    assert history.is_record(RECORD) and history.is_record(diverged) and diverged["loss"] is None
    older = {k: v for k, v in RECORD.items() if k != "epochs"}
    assert history.is_record(older) and not history.losses_in([older])
    whole = {k: v for k, v in RECORD.items() if k != "part"}  # of a version that knew no parts
    assert history.is_record(whole) and history.losses_in([whole]) == history.losses_in([RECORD])


@pytest.mark.parametrize("change", [{"epochs": [1]}, {"epochs": "1"}, {"part": [1]}, {"part": None}, {"widths": None},
                                    {"loss": "low"}, {"step": None}])
def test_a_line_that_is_no_record_is_told(change):
    assert not history.is_record({**RECORD, **change})
