"""The board is described from its system's files, and what disturbs a measurement is named with its remedy."""

from dataclasses import replace

import pytest

from utils.latency import board
from utils.latency.sensors import Throttling

PI = {"machine": "aarch64", "model": "Raspberry Pi 4 Model B Rev 1.4"}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The files of a Raspberry Pi 4, as far as they are read; what else is asked is not this machine's either."""
    monkeypatch.setenv("PATH", "")
    texts = {
        "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0", "proc/loadavg": "0.52 0.58 0.59 1/467 12345\n",
        "proc/cpuinfo": "processor\t: 0\nmodel name\t: ARMv8 Processor rev 3 (v8l)\n\nModel\t\t: Raspberry Pi 4\n",
        "proc/meminfo": "MemTotal:        3884376 kB\nMemFree:          120000 kB\nMemAvailable:    3174400 kB\n?: x\n",
        "sys/class/thermal/thermal_zone0/temp": "48312\n",
        "sys/class/thermal/thermal_zone0/trip_point_0_type": "critical\n",
        "sys/class/thermal/thermal_zone0/trip_point_0_temp": "110000\n",
        "sys/devices/platform/soc/soc:firmware/get_throttled": "50001\n"}
    for policy, governor in (("policy0", "ondemand"), ("policy4", "performance")):
        texts.update({f"sys/devices/system/cpu/cpufreq/{policy}/{name}": f"{text}\n" for name, text in (
            ("scaling_governor", governor), ("scaling_cur_freq", 1500000), ("scaling_min_freq", 600000),
            ("scaling_max_freq", 1800000))})
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_board_is_read_from_its_files(root):
    device, found = board.this_machine(root), board.conditions(root)
    assert (device["model"], device["processor"]) == ("Raspberry Pi 4 Model B Rev 1.4", "Raspberry Pi 4")
    assert found.governors == ("ondemand", "performance") and found.clocks_mhz == (1500.0, 1500.0)
    assert found.clock_limits_mhz == (600.0, 1800.0) and found.load == 0.52
    assert (round(found.memory_mb), round(found.free_mb)) == (3793, 3100)
    assert (found.temperature_c, found.critical_c) == (48.312, 110.0)
    assert found.throttling == Throttling(("under-voltage",), ("under-voltage", "throttled"),
                                          "the kernel's get_throttled")
    assert found.python_bits in (32, 64) and found.cores >= len(found.affinity) > 0
    assert found.as_json()["throttling"]["now"] == ("under-voltage",)
    words = dict(board.in_words(PI, found))
    assert words["clock"] == "governor ondemand, performance; 600 to 1800 MHz, now 1500, 1500"
    assert words["temperature"] == "48 °C, critical at 110 °C"
    assert words["throttling"] == ("now under-voltage; since boot under-voltage, throttled (by the kernel's "
                                   "get_throttled)")


def test_what_a_machine_does_not_tell_is_not_known(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    found = board.conditions(tmp_path)
    assert found.governors == found.clocks_mhz == found.clock_limits_mhz == ()
    assert found.load is found.memory_mb is found.temperature_c is found.critical_c is found.throttling is None
    words = dict(board.in_words({"machine": "riscv64"}, found))
    assert words["board"].startswith("a machine without a name, riscv64, ")
    assert words["clock"] == "the governor is not known" and words["temperature"] == "not known"
    assert words["throttling"].startswith("not known") and words["load"].startswith("an unknown number of programs")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/loadavg").write_text("nonsense\n")
    assert board.conditions(tmp_path).load is None


@pytest.mark.parametrize("device,critical_c,limit", [
    (PI, 110.0, 70.0), (PI, None, 70.0), ({"machine": "x86_64"}, 100.0, 90.0), ({"machine": "x86_64"}, None, None)])
def test_a_limit_stands_where_a_board_is_known_to_throttle_or_to_be_critical(device, critical_c, limit):
    assert board.max_temp_c(device, critical_c) == limit


QUIET = board.Conditions("6.6", "3.11.2", 64, 4, (0, 1, 2, 3), ("performance",), (1800.0,), (600.0, 1800.0), 0.1,
                         3800.0, 3000.0, 45.0, 110.0, Throttling((), (), "vcgencmd"))


@pytest.mark.parametrize("change,words", [
    ({"governors": ("ondemand", "performance")}, "the governor ondemand changes the clock while layers run: echo"),
    ({"throttling": Throttling(("under-voltage",), ("under-voltage",), "")}, "now (under-voltage): use a power supply"),
    ({"throttling": Throttling((), ("throttled",), "")}, "since boot (throttled): give the board a heat sink or a fan"),
    ({"throttling": Throttling(("soft temperature limit",), None, "")}, "now (soft temperature limit): give the board"),
    ({"temperature_c": 65.0}, "65 °C before anything runs, and measurements pause above 70: give the board a"),
    ({"load": 1.2}, "other programs run (load 1.20): stop them"),
    ({"free_mb": 90.0}, "only 90 MB of memory are free"),
    ({"python_bits": 32}, "Python has 32 bits on a kernel of 64"),
    ({"affinity": (0,)}, "--num_threads=2, but this process may use 1 cores")])
def test_each_trouble_is_named_with_its_remedy(change, words):
    (found,) = board.advice(PI, replace(QUIET, **change), 2)
    assert words in found
    assert list(board.governor_advice(replace(QUIET, **change))) == ([found] if "governors" in change else [])


def test_a_quiet_board_needs_no_advice():
    assert list(board.advice(PI, QUIET, 4)) == []
    unknown = replace(QUIET, governors=(), load=None, free_mb=None, temperature_c=None, throttling=None)
    assert list(board.advice({"machine": "armv7l"}, replace(unknown, python_bits=32), 1)) == []
