"""How carefully to measure: flags come first, then what suits the occasion."""

import pytest

from utils.common.errors import UserError
from utils.latency.benchmark_tool import BinaryRunner
from utils.latency.own_process import OwnProcess
from utils.latency.settings import Pace, Tool

ASKED = Pace(num_measures=11, num_passes=None, spread=0.05, drift=0.04, patience_s=None, max_temp_c=60.0, seed=3)


def test_a_table_has_two_passes_and_networks_have_more_and_wait_longer():
    table, sample, networks = ASKED.of_table(few=False), ASKED.of_table(few=True), ASKED.of_networks(200.0)
    assert (table.passes, table.runs, table.max_visits) == (2, 6, 4)
    assert (sample.passes, sample.runs, sample.max_visits) == (2, 6, 8)
    assert (networks.passes, networks.runs, networks.max_visits) == (4, 3, 10)
    assert (table.patience_s, networks.patience_s, networks.short_wait_s) == (30.0, 200.0, 200.0)
    for care in (table, sample, networks):
        assert (care.spread, care.drift, care.max_temp_c, care.seed) == (0.05, 0.04, 60.0, 3)


@pytest.mark.parametrize("measures, passes, runs", [(11, 2, 6), (12, 2, 6), (1, 4, 1), (5, 1, 5)])
def test_runs_over_all_passes_are_at_least_those_asked_for(measures, passes, runs):
    care = Pace(measures, passes, 0.05, 0.05, 1.0, 70.0, 0).of_table(few=False)
    assert (care.passes, care.runs) == (passes, runs) and care.passes * care.runs >= measures
    assert care.patience_s == 1.0


def test_the_tool_takes_the_tables_threads_unless_asked_otherwise(tmp_path):
    for asked, threads in ((None, 4), (2, 2)):
        found = Tool(None, asked, 120.0).runner(4)
        assert isinstance(found, OwnProcess) and found.num_threads == threads
    binary = tmp_path / "benchmark_model"
    binary.write_text("#!/bin/sh\n")
    with pytest.raises(UserError, match="benchmark_model"):  # not executable
        Tool(str(binary), None, 120.0).runner()
    binary.chmod(0o755)
    found = Tool(str(binary), None, 9.0).runner(4)
    assert isinstance(found, BinaryRunner) and found.num_threads == 4
