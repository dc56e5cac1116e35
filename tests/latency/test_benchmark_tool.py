"""The benchmark_model binary: the formats of its output, and tools that fail."""

import stat
import sys
from pathlib import Path

import pytest

from utils.common.errors import UserError
from utils.latency.benchmark_tool import BinaryRunner, find_binary, parse_output
from utils.latency.runners import BenchmarkError

TF_1_13 = """resolved reporter
Initialized session in 23.022ms
Running benchmark for at least 1 iterations and at least 0 seconds
count=1 curr=3589

Running benchmark for at least 11 iterations and at least 0 seconds
count=11 first=1068 curr=1045 min=1042 max=1090 avg=1060.45 std=16

Average inference timings in us: Warmup: 3589, Init: 23022, no stats: 1060.45
"""

LITERT_2 = """INFO: count=1 curr=2214345 p5=2214345 median=2214345 p95=2214345

INFO: Running benchmark for at least 11 iterations and at least 0 seconds but terminate if exceeding 150 seconds.
INFO: count=11 first=2053894 curr=2109263 min=2040862 max=2425303 avg=2.11985e+06 std=105101 p5=1 median=2109263 p95=3

INFO: Inference timings in us: Init: 2310, First inference: 2214345, Warmup (avg): 2.21434e+06, \
Inference (avg): 2.11985e+06
INFO: Memory footprint delta from the start of the tool (MB): init=1.73 overall=3.37
"""


@pytest.mark.parametrize("name, seconds", [("tf-1.13", 1060.45e-6), ("tf-nightly-2019", 1051.64e-6),
                                           ("tf-2.x", 1012.45e-6), ("litert-2.x", 2.109263)])
def test_the_real_outputs(shared, name, seconds):
    assert parse_output((shared / f"data/benchmark_model/{name}.txt").read_text()) == pytest.approx(seconds)


@pytest.mark.parametrize("name", ["tf-1.13-missing-file", "tf-1.13-truncated-file"])
def test_the_real_failures(shared, name):
    with pytest.raises(BenchmarkError, match="printed no timing; its last lines: "):
        parse_output((shared / f"data/benchmark_model/{name}.txt").read_text())


def test_mean_where_no_median_is_printed_and_median_where_it_is():
    assert parse_output(TF_1_13) == pytest.approx(1060.45e-6)
    assert parse_output(LITERT_2) == pytest.approx(2.109263)


def test_a_single_run_prints_no_mean_of_its_own():
    text = ("count=1 curr=50\n\ncount=1 curr=40\n\n"
            "Inference timings in us: Init: 9, Warmup (avg): 50, Inference (avg): 40\n")
    assert parse_output(text) == pytest.approx(40e-6)


@pytest.mark.parametrize("text", ["", "count=11 avg=5", "no stats: 5", LITERT_2.replace("median=2109263", "median=-1"),
                                  TF_1_13.replace("avg=1060.45", "avg=1e999"),
                                  TF_1_13.replace("avg=1060.45", "avg=..")])
def test_nonsense_is_an_error(text):
    with pytest.raises(BenchmarkError):
        parse_output(text)


def test_a_median_of_less_than_a_microsecond_is_printed_as_0():
    text = LITERT_2.replace("median=2109263", "median=0").replace("avg=2.11985e+06", "avg=0.818")
    assert parse_output(text) == pytest.approx(0.818e-6)


# --- the binary ------------------------------------------------------------------------------------------------

@pytest.fixture
def tool(tmp_path):
    """An executable with this Python text as its body."""
    def make(body):
        path = tmp_path / "benchmark_model"
        path.write_text(f"#!{sys.executable}\nimport os, sys, time\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return BinaryRunner(path, num_threads=2, timeout_s=20)
    return make


def test_the_binary_is_told_what_to_run(tool, tmp_path):
    runner = tool(f"open({str(tmp_path / 'seen')!r}, 'w').write(' '.join(sys.argv[1:]))\nprint({TF_1_13!r})")
    weird = tmp_path / "a name with spaces; and $(more).tflite"
    assert runner.open(weird)(7) == [pytest.approx(1060.45e-6)]
    assert (tmp_path / "seen").read_text() == (f"--graph={weird} --num_threads=2 --num_runs=7 --min_secs=0 "
                                               "--warmup_runs=1 --warmup_min_secs=0")


@pytest.mark.parametrize("body, message", [
    ("print('Failed to mmap'); sys.exit(3)", "ended with exit code 3; its last lines: Failed to mmap"),
    ("os.abort()", "ended with signal SIGABRT; it printed nothing"),
    ("print('bonjour')", "printed no timing; its last lines: bonjour")])
def test_a_failing_binary_is_quoted(tool, tmp_path, body, message):
    with pytest.raises(BenchmarkError, match=message):
        tool(body).open(tmp_path / "x.tflite")(1)


def test_a_hanging_binary_is_killed_with_its_children(tool, tmp_path):
    runner = tool("")
    Path(runner.binary).write_text(f"#!/bin/sh\nsleep 600 &\necho $! > {tmp_path / 'child'}\nwait\n")
    with pytest.raises(BenchmarkError, match="did not end within 2 s"):
        BinaryRunner(runner.binary, 1, timeout_s=2).open(tmp_path / "x.tflite")(1)
    import os
    import time
    child = int((tmp_path / "child").read_text())
    for _ in range(50):
        try:
            state = Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            state = "gone"
        if state in ("gone", "Z"):
            break
        time.sleep(0.1)
    assert state in ("gone", "Z"), f"process {child} of {os.getpid()} still runs"


def test_finding_the_binary(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no benchmark_model binary there"):
        find_binary(str(tmp_path / "absent"))
    (tmp_path / "tool").write_text("")
    with pytest.raises(UserError, match="not executable; chmod"):
        find_binary(str(tmp_path / "tool"))
    (tmp_path / "tool").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    assert find_binary("tool") == (tmp_path / "tool").resolve()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir("/")
    assert find_binary("tool") == (tmp_path / "tool").resolve()


def test_a_binary_of_another_processor_is_said(tmp_path):
    (tmp_path / "arm").write_bytes(b"\x7fELF" + bytes(60))
    (tmp_path / "arm").chmod(0o755)
    with pytest.raises(UserError, match="cannot be run here"):
        BinaryRunner(tmp_path / "arm", 1, 5).open(tmp_path / "x.tflite")(1)


def test_the_binary_times_bytes_through_a_file_that_goes_again(tool, tmp_path):
    runner = tool(f"seen = {str(tmp_path / 'seen')!r}\n" + """graph = sys.argv[1].split('=')[1]
size = os.path.getsize(graph)
open(seen, 'a').write(graph + chr(10))
print('count=1 curr=1'); print(f'count=11 first=5 avg={size}'); print('x in us: no stats: 5')""")
    timer = runner.open(b"x" * 1234)
    assert timer(3) == timer(3) == [pytest.approx(1234e-6)]
    graphs = (tmp_path / "seen").read_text().split()
    assert len(graphs) == 2 and not any(Path(g).exists() for g in graphs)
