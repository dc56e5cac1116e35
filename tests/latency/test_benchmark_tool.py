"""The benchmark_model binary: the formats of its output, and tools that fail."""

import stat
import sys
from pathlib import Path

import pytest

from utils.common.errors import UserError
from utils.latency.benchmark_tool import BinaryRunner, Figure, find_binary, parse_output
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

LITERT_CC = """INFO: Initialized session in 4.1ms.
INFO: Running benchmark for at least 1 iterations and at least 0 seconds but terminate if exceeding 150 seconds.
INFO: count=1 curr=2770 p5=2770 median=2770 p95=2770

INFO: Running benchmark for at least 11 iterations and at least 0 seconds but terminate if exceeding 150 seconds.
INFO: count=11 first=1600 curr=1550 min=1440 max=1920 avg=1551.2 std=90 p5=1440 median=1540 p95=1920

INFO: [tool.h:58]
========== BENCHMARK RESULTS ==========
INFO: [tool.h:59] Model initialization: 4.10 ms
INFO: [tool.h:62] Warmup (avg):         2.77 ms (1 runs)
INFO: [tool.h:64] Inference (avg):      1.55 ms (11 runs)
INFO: [tool.h:68] Inference (min):      1.44 ms
INFO: [tool.h:72] Inference (std):      0.09
"""

PROFILE = """Profiling Info for Regular Benchmark Runs:
============================== Run Order ==============================
\t [node type]\t [first]\t [avg ms]\t [%]\t [cdf%]\t [mem KB]\t[times called]\t[Name]
\t CONV_2D\t 0.700\t 0.650\t 62.0%\t 62.0%\t 0.000\t 1\t[Inference (avg): 9 count=3 avg=7]:0
\t CONV_2D\t 0.400\t 0.380\t 38.0%\t 100.0%\t 0.000\t 1\tcount=11 first=4 min=2 avg=3
Number of nodes executed: 2
\t [Node type]\t [count]\t [avg ms]\t [avg %]\t [cdf %]\t [mem KB]\t[times called]
\t CONV_2D\t 2\t 1.030\t 100.0%\t 100.0%\t 0.000\t 2

Timings (microseconds): count=11 first=1010 curr=990 min=980 max=1200 avg=1030.2 std=9
INFO: Timings (microseconds): count=11 first=1010 curr=990 min=980 max=1200 avg=1030.2 std=9
Memory (bytes): count=11 curr=4096(all same)
2 nodes observed
"""


def figure(seconds, statistic):
    return Figure(pytest.approx(seconds, rel=1e-12), statistic)


@pytest.mark.parametrize("name, seconds, statistic", [
    ("tf-1.13", 1042e-6, "min"), ("tf-nightly-2019", 1026e-6, "min"), ("tf-2.x", 941e-6, "min"),
    ("litert-2.x", 2.109263, "median"), ("litert-cc-tool", 1540e-6, "median")])
def test_the_real_outputs(shared, name, seconds, statistic):
    assert parse_output((shared / f"data/benchmark_model/{name}.txt").read_text()) == figure(seconds, statistic)


@pytest.mark.parametrize("name", ["tf-1.13-missing-file", "tf-1.13-truncated-file"])
def test_the_real_failures(shared, name):
    with pytest.raises(BenchmarkError, match="printed no timing; its last lines: "):
        parse_output((shared / f"data/benchmark_model/{name}.txt").read_text())


def test_the_median_the_min_or_the_mean_whichever_the_tool_prints():
    assert parse_output(LITERT_2) == figure(2.109263, "median")
    assert parse_output(LITERT_CC) == figure(1540e-6, "median")
    assert parse_output(TF_1_13) == figure(1042e-6, "min")
    assert parse_output(TF_1_13.replace("min=1042 ", "")) == figure(1060.45e-6, "mean")
    assert parse_output("Inference timings in us: Init: 9, Inference (avg): 40.5") == figure(40.5e-6, "mean")
    assert parse_output("Inference (avg): 40.5 us\nInference (median): 41 us") == figure(41e-6, "median")


def test_an_outlier_moves_the_mean_and_not_the_figure():
    spoilt = TF_1_13.replace("1060.45", "91060.5").replace("max=1090", "max=901090")
    assert parse_output(spoilt) == figure(1042e-6, "min")


@pytest.mark.parametrize("line, statistic", [
    ("count=1 curr=40", "min"), ("count=11 curr=40(all same)", "min"),
    ("count=1 curr=40 p5=40 median=40 p95=40", "median"),
    ("count=11 curr=40(all same) p5=40 median=40 p95=40", "median"), ("count=11 curr=45", "mean")])
def test_runs_that_are_one_or_equal_have_no_statistics_of_their_own(line, statistic):
    text = f"count=1 curr=50\n\n{line}\n\nInference timings in us: Init: 9, Warmup (avg): 50, Inference (avg): 40\n"
    assert parse_output(text) == figure(40e-6, statistic)


# --- lines that are no timed runs ---

def lines_of(text, *wanted):
    return "".join(line for line in text.splitlines(keepends=True) if any(w in line for w in wanted))


def test_a_profilers_lines_are_not_taken_wherever_they_stand():
    summary = lines_of(TF_1_13, "no stats")
    assert parse_output(TF_1_13 + PROFILE) == figure(1042e-6, "min")
    assert parse_output(TF_1_13.replace(summary, PROFILE + summary)) == figure(1042e-6, "min")
    assert parse_output(LITERT_CC + PROFILE) == figure(1540e-6, "median")
    assert parse_output(PROFILE + LITERT_2 + PROFILE) == figure(2.109263, "median")
    unlabelled = "INFO: Node: count=4 first=9 curr=9 min=8 max=9 avg=8.5 std=1\n"
    assert parse_output(LITERT_CC + unlabelled) == figure(1540e-6, "median")
    with pytest.raises(BenchmarkError, match="printed no timing"):
        parse_output(PROFILE)


def test_a_loggers_words_may_stand_before_a_line():
    line = "2019-03-04 10:11:12.131415: I tensorflow/lite/tools/benchmark/benchmark_model.cc:324] count=11"
    assert parse_output(TF_1_13.replace("count=11", line)) == figure(1042e-6, "min")
    assert parse_output(LITERT_2.replace("INFO: ", "I tflite  : ")) == figure(2.109263, "median")
    assert parse_output(LITERT_CC.replace("\n", "\r\n")) == figure(1540e-6, "median")


def test_a_warm_up_alone_is_no_timing():
    with pytest.raises(BenchmarkError, match="printed no timing"):
        parse_output(TF_1_13[:TF_1_13.index("Running benchmark for at least 11")])
    cut = TF_1_13.replace(lines_of(TF_1_13, "count=11"), "")
    assert parse_output(cut) == figure(1060.45e-6, "mean")  # of the summary, and not 3589 of the warm-up


# --- units ---

@pytest.mark.parametrize("unit, factor", [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("μs", 1e-6), ("ms", 1e-3),
                                          ("s", 1)])
def test_a_unit_that_is_stated_is_believed(unit, factor):
    line = "count=11 first=16 curr=15 min=14 max=19 avg=15.5 std=2"
    assert parse_output(f"{line}\nInference (avg): 15.5 {unit} (11 runs)\n") == figure(14 * factor, "min")
    assert parse_output(f"{line}\nInference (avg): 15.5{unit}\n") == figure(14 * factor, "min")
    assert parse_output(f"{line}\nInference timings in {unit}: Init: 3, Inference (avg): 15.5\n") == figure(
        14 * factor, "min")
    written = line.replace("min=14", f"min=14{unit}").replace("avg=15.5", f"avg=15.5{unit}")
    assert parse_output(f"{written}\nInference (avg): 15.5\n") == figure(14 * factor, "min")
    assert parse_output(f"Inference (avg): 1.55e1 {unit}\nInference (median): 15.25 {unit}") == figure(
        15.25 * factor, "median")


@pytest.mark.parametrize("words, avg, least, seconds", [
    ("1.55 ms", "1551.2", "1440", 1440e-6), ("1.55 ms", "1551200", "1440000", 1440e-6),
    ("1.55 ms", "1.5512", "1.44", 1440e-6), ("1.55 s", "1551.2", "1440", 1.44), ("1551 us", "1551.2", "1440", 1440e-6),
    ("0.00 ms", "3.2", "3", 3e-6), ("2 ms", "1551.2", "1440", 1440e-6)])
def test_two_printed_means_tell_the_unit_of_the_line(words, avg, least, seconds):
    text = f"count=11 first=1600 curr=1550 min={least} avg={avg}\nInference (avg): {words}\n"
    assert parse_output(text) == figure(seconds, "min")


def test_the_words_of_tensorflow_1_13_mean_microseconds():
    assert parse_output(TF_1_13.replace(" in us", "")) == figure(1042e-6, "min")


@pytest.mark.parametrize("text, words", [
    (LITERT_CC.replace("1.55 ms", "155.12 ms"), "contradict each other (min 1.44 ms and 1440 without a unit; mean 155"),
    (LITERT_CC.replace("1.44 ms", "1.54 ms"), "contradict each other (min 1.54 ms and 1440 without a unit; "),
    (TF_1_13.replace("no stats: 1060.45", "no stats: 1070.45"), "contradict each other"),
    (TF_1_13.replace("in us", "in ms").replace("avg=1060.45", "avg=1060.45us"), "contradict each other"),
    (TF_1_13.replace("min=1042", "min=1062"), "a mean below its min"),
    (LITERT_CC.replace("min=1440", "min=1540").replace("1.44 ms", "1.54 ms").replace("median=1540", "median=1530"),
     "a median below its min, 1530 without a unit and 1540 "),
    (LITERT_2.replace(" in us", ""), "a time without a unit"), ("no stats: 5", "a time without a unit"),
    ("Inference (avg): 1.55 msec", "a time in 'msec', expected one of us, "),
    ("Inference (avg): 1,551.2 us", "printed '1,551.2' as its mean"), (LITERT_2.replace("=2109263", "=-1"), "'-1'"),
    (TF_1_13.replace("avg=1060.45", "avg=1e999"), "printed '1e999' as its mean"),
    (TF_1_13.replace("min=1042", "min=nan"), "printed 'nan' as its min"),
    (TF_1_13.replace("min=1042", "min=sNaN"), "printed 'sNaN' as its min"),
    (TF_1_13.replace("no stats: 1060.45", "no stats: inf"), "printed 'inf' as its mean"),
    (LITERT_2.replace("median=2109263", "median=.."), "printed '..' as its median"),
    (LITERT_2.replace("median=2109263", "median=0"), "a median below its min"),
    ("Inference (avg): 0.00 ms", "printed 0 as its mean"),
    ("", "no timing; it printed nothing"), ("count=11 avg=5", "no timing; its last lines: count=11 avg=5")])
def test_what_cannot_be_trusted_is_an_error_that_says_why(text, words):
    with pytest.raises(BenchmarkError) as found:
        parse_output(text)
    assert words in str(found.value)


@pytest.mark.parametrize("mean, seconds", [("0.818182", 0.818182e-6), ("5.5", 1e-6)])
def test_less_than_a_microsecond_is_printed_as_0(mean, seconds):
    text = (f"count=11 first=0 curr=1 min=0 max=51 avg={mean} std=9 p5=0 median=0 p95=1\n"
            f"Inference timings in us: Inference (avg): {mean}\n")
    assert parse_output(text) == figure(seconds, "median")


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
    assert runner.open(weird).time(7) == [pytest.approx(1042e-6)]
    assert (tmp_path / "seen").read_text() == (f"--graph={weird} --num_threads=2 --num_runs=7 --min_secs=0 "
                                               "--warmup_runs=1 --warmup_min_secs=0")


@pytest.mark.parametrize("body, message", [
    ("print('Failed to mmap'); sys.exit(3)", "ended with exit code 3; its last lines: Failed to mmap"),
    ("os.abort()", "ended with signal SIGABRT; it printed nothing"),
    ("print('bonjour')", "printed no timing; its last lines: bonjour")])
def test_a_failing_binary_is_quoted(tool, tmp_path, body, message):
    with pytest.raises(BenchmarkError, match=message):
        tool(body).open(tmp_path / "x.tflite").time(1)


def test_a_hanging_binary_is_killed_with_its_children(tool, tmp_path):
    runner = tool("")
    Path(runner.binary).write_text(f"#!/bin/sh\nsleep 600 &\necho $! > {tmp_path / 'child'}\nwait\n")
    with pytest.raises(BenchmarkError, match="did not end within 2 s"):
        BinaryRunner(runner.binary, 1, timeout_s=2).open(tmp_path / "x.tflite").time(1)
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
        BinaryRunner(tmp_path / "arm", 1, 5).open(tmp_path / "x.tflite").time(1)


def test_the_binary_times_bytes_through_a_file_that_goes_again(tool, tmp_path):
    runner = tool(f"seen = {str(tmp_path / 'seen')!r}\n" + """graph = sys.argv[1].split('=')[1]
size = os.path.getsize(graph)
open(seen, 'a').write(graph + chr(10))
print('count=1 curr=1'); print(f'count=11 first=5 avg={size}'); print(f'x in us: no stats: {size}')""")
    timer = runner.open(b"x" * 1234).time
    assert timer(3) == timer(3) == [pytest.approx(1234e-6)]
    graphs = (tmp_path / "seen").read_text().split()
    assert len(graphs) == 2 and not any(Path(g).exists() for g in graphs)


# --- one statistic ---------------------------------------------------------------------------------------------

def test_a_runner_is_held_to_the_statistic_that_the_tool_printed_first(tool, tmp_path):
    runner = tool(f"print(open({str(tmp_path / 'prints')!r}).read())")
    assert "visit_statistic" not in runner.describe()
    for text, statistic in ((TF_1_13, "min"), (LITERT_CC, "median")):
        (tmp_path / "prints").write_text(text)
        held = runner.held(lambda: b"model", ", then go on")
        assert held.describe()["visit_statistic"] == statistic
    (tmp_path / "prints").write_text(TF_1_13)
    with pytest.raises(BenchmarkError, match="printed the min of its runs, and their median when this measurement"):
        held.open(b"model").time(1)
    assert runner.open(b"model").time(1) == [pytest.approx(1042e-6)]
    (tmp_path / "prints").write_text("nothing")
    with pytest.raises(UserError, match="probe: could not be timed in 3 attempts: the tool printed no .*, then go on"):
        runner.held(lambda: b"model", ", then go on")
