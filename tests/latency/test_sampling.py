"""Sparse tables, on synthetic ones whose steps are known."""

import inspect
import subprocess
import sys

import numpy as np
import pytest

from model.architectures import describe
from tests.helpers import ROOT, environment
from utils.common.errors import UserError
from utils.latency import sampling
from utils.latency.entries import Entries

NETWORK = describe("res", depth=40, width=2.0)


def stepped(table, across, down, noise=0.0, dip=None, seed=0):
    """Latency that grows in steps of ``across`` output and ``down`` input channels, as blocked kernels do."""
    if table.columns == 1:
        return 1e-6 + 1e-8 * np.arange(1, table.rows + 1)[:, None] * (1 + (np.arange(table.rows) % 16 != 15))[:, None]
    cin, cout = np.arange(1, table.rows + 1)[:, None], np.arange(1, table.columns + 1)[None, :]
    blocks_in, blocks_out = np.ceil(cin / down) * down, np.ceil(cout / across) * across
    seconds = 5e-7 + 2e-9 * blocks_in * blocks_out + 1e-8 * blocks_out + 3e-9 * blocks_in
    if dip:  # another kernel at one width
        seconds = np.where(cout == dip, 0.75 * seconds, seconds)
    return seconds * (1 + noise * np.random.default_rng(seed).standard_normal(seconds.shape))


def filled(across, down, noise=0.0, dip=None, part=0.05, seed=0):
    sample = sampling.choose(NETWORK, part, seed)
    truth = {k: stepped(t, across, down, 0, dip) for k, t in NETWORK.tables.items()}
    seen = {k: stepped(t, across, down, noise, dip, seed) for k, t in NETWORK.tables.items()}
    flat = np.concatenate([seen[k].ravel() for k in NETWORK.tables])
    table, about = sampling.fill(NETWORK, sample, flat[sample.numbers])
    error = np.concatenate([np.abs(table[k] / truth[k] - 1).ravel() for k in NETWORK.tables])
    rest = np.setdiff1d(np.arange(len(error)), sample.numbers)
    return table, truth, error[rest], about


@pytest.mark.parametrize("across, down, dip", [(1, 1, None), (4, 1, None), (8, 1, None), (16, 1, 32), (16, 4, None),
                                               (12, 5, None), (32, 8, None)])
def test_steps_are_found_wherever_they_are(across, down, dip):
    table, truth, error, about = filled(across, down, dip=dip)
    assert about["measured"] <= 0.05 * about["of"]
    assert np.median(error) < 0.002 and np.quantile(error, 0.95) < 0.02
    # a step stays where it is: the jump of the filled table is the true one, not spread over its neighbours
    key, row = "No_Stride_3", 77
    jumps = np.diff(np.log(truth[key][row])) > 0.045
    np.testing.assert_allclose(np.diff(np.log(table[key][row]))[jumps], np.diff(np.log(truth[key][row]))[jumps],
                               atol=0.03)


def test_noise_is_averaged_not_copied_into_whole_rows():
    for seed in (0, 1):
        _, _, error, about = filled(16, 1, noise=0.015, dip=32, seed=seed)
        assert np.median(error) < 0.012 and np.quantile(error, 0.95) < 0.035
        held = about["error_on_held_out"]
        assert held["entries"] > 100 and 0 < held["median"] < 0.03 and held["median"] < held["p95"] < 0.08


def test_the_reported_error_is_that_of_entries_not_used():
    """A table that is no smooth function of its margins: the report has to say so."""
    sample = sampling.choose(NETWORK, 0.05, 0)
    flat = 1e-5 * np.random.default_rng(0).uniform(1, 3, len(Entries(NETWORK)))
    _, about = sampling.fill(NETWORK, sample, flat[sample.numbers])
    assert about["error_on_held_out"]["median"] > 0.1


def test_what_was_measured_stays():
    sample = sampling.choose(NETWORK, 0.05, 3)
    flat = np.concatenate([stepped(t, 16, 1, 0.02).ravel() for t in NETWORK.tables.values()])
    table, _ = sampling.fill(NETWORK, sample, flat[sample.numbers])
    found = np.concatenate([table[k].ravel() for k in NETWORK.tables])
    np.testing.assert_array_equal(found[sample.numbers], flat[sample.numbers])
    assert (found > 0).all()


def test_a_sample_is_rising_different_by_seed_and_no_larger_than_asked():
    one, same, other = (sampling.choose(NETWORK, 0.05, s) for s in (0, 0, 1))
    assert np.array_equal(one.numbers, same.numbers) and not np.array_equal(one.numbers, other.numbers)
    assert (np.diff(one.numbers) > 0).all() and len(one.numbers) <= 0.05 * len(Entries(NETWORK))
    assert 0.05 < one.held_out.mean() < 0.1
    wide = describe("res", depth=16, width=16.0)
    sample = sampling.choose(wide, 0.02, 0)
    assert 20_000 < len(sample.numbers) <= 0.02 * len(Entries(wide)) and len(Entries(wide)) > 2_000_000


def test_too_small_a_sample_is_refused():
    with pytest.raises(UserError, match=r"--sample=0.01: 434 of 43,408 entries are too few .* expected 0.0\d+ or more"):
        sampling.choose(NETWORK, 0.01, 0)
    with pytest.raises(UserError, match="leave --sample out"):
        sampling.choose(describe("res", depth=10, width=0.0625), 0.5, 0)


def test_averaging_along_a_row_keeps_its_steps():
    line = np.repeat([1.0, 2.0, 1.5, 3.0], [16, 15, 1, 32])
    noisy = line * (1 + 0.008 * np.random.default_rng(0).standard_normal(64))
    level = sampling._smooth(noisy)
    np.testing.assert_allclose(level, line, rtol=0.012)
    assert np.std(level / line) < 0.6 * np.std(noisy / line) and level[31] == noisy[31]


@pytest.mark.slow
def test_a_table_of_a_million_entries_is_filled_in_little_memory(tmp_path):
    """In a process of its own, whose peak is what the system says it was."""
    code = "import numpy as np\n" + inspect.getsource(stepped) + """
import re
from model.architectures import describe
from utils.latency import sampling
network = describe("res", depth=16, width=16.0)
sample = sampling.choose(network, 0.02, 0)
flat = np.concatenate([stepped(t, 16, 1).ravel() for t in network.tables.values()])
table, about = sampling.fill(network, sample, flat[sample.numbers])
error = np.concatenate([np.abs(table[k].ravel()) for k in network.tables]) / flat - 1
peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())  # getrusage would tell the parent's
print(np.median(np.abs(error)), int(peak.group(1)) / 1024)
"""
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment())
    assert found.returncode == 0, found.stderr
    error, megabytes = map(float, found.stdout.split())
    assert error < 0.005 and megabytes < 500
