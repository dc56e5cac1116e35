"""Heat and throttling are read wherever a system tells them, and nothing is known where none does."""

import pytest

from utils.latency.sensors import Reading, Throttling, critical_c, reader

TOLD = ("under-voltage", "throttled")


def zone(root, number, millidegrees, **trips):
    folder = root / f"class/thermal/thermal_zone{number}"
    folder.mkdir(parents=True)
    (folder / "temp").write_text(millidegrees)
    for index, (kind, limit) in enumerate(trips.items()):
        (folder / f"trip_point_{index}_type").write_text(f"{kind}\n")
        (folder / f"trip_point_{index}_temp").write_text(f"{limit}\n")


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Make vcgencmd, a shell script, the only program on PATH; it counts how often it was asked."""
    def make(script):
        path = tmp_path / "bin/vcgencmd"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\necho >> {tmp_path}/asked\n{script}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return make


def test_a_machine_that_tells_nothing_is_not_known(tmp_path, program):
    assert reader(tmp_path)() == Reading(None, None) and critical_c(tmp_path) is None
    assert reader(tmp_path)().throttled == ()


def test_the_hottest_sensor_counts_with_its_own_critical_value(tmp_path, program):
    zone(tmp_path, 0, "48312\n", critical=110000)
    zone(tmp_path, 1, "51000\n", passive=85000, critical=105000, hot=95000)
    zone(tmp_path, 2, "")  # switched off
    zone(tmp_path, 3, "20000\n", critical=-274000)
    assert reader(tmp_path)().temperature_c == 51.0 and critical_c(tmp_path) == 105.0
    zone(tmp_path, 4, "90000\n", passive=85000)
    assert reader(tmp_path)().temperature_c == 90.0 and critical_c(tmp_path) is None


@pytest.mark.parametrize("bits,now,since", [
    ("50005\n", TOLD, TOLD), ("0x50000\n", (), TOLD), ("0\n", (), ()),
    ("0xa0002", ("frequency capped",), ("frequency capped", "soft temperature limit"))])
def test_the_kernels_file_is_read_first(tmp_path, program, bits, now, since):
    program("echo throttled=0xf000f")
    firmware = tmp_path / "devices/platform/soc/soc:firmware"
    firmware.mkdir(parents=True)
    (firmware / "get_throttled").write_text(bits)
    assert reader(tmp_path)().throttling == Throttling(now, since, "the kernel's get_throttled")
    assert not (tmp_path / "asked").exists()


def test_the_program_is_asked_next_and_not_all_the_time(tmp_path, program):
    program("echo throttled=0x50001")
    now = [100.0]
    read = reader(tmp_path, lambda: now[0])
    for now[0] in (100.0, 101.0, 104.9, 105.0, 109.0):
        assert read().throttling == Throttling(("under-voltage",), TOLD, "vcgencmd")
    assert (tmp_path / "asked").read_text().count("\n") == 2


@pytest.mark.parametrize("script", ["echo VCHI: no permission; exit 255", "echo throttled=", "echo nonsense", ""])
def test_the_voltage_alone_is_read_last(tmp_path, program, script):
    program(script)
    assert reader(tmp_path)().throttling is None
    sensor = tmp_path / "class/hwmon/hwmon1"
    sensor.mkdir(parents=True)
    (sensor / "in0_lcrit_alarm").write_text("1\n")
    (sensor / "name").write_text("coretemp\n")
    assert reader(tmp_path)().throttling is None
    (sensor / "name").write_text("rpi_volt\n")
    assert reader(tmp_path)().throttling == Throttling(("under-voltage",), None, "rpi_volt, of under-voltage alone")
    (sensor / "in0_lcrit_alarm").write_text("0\n")
    assert reader(tmp_path)().throttling == Throttling((), None, "rpi_volt, of under-voltage alone")
