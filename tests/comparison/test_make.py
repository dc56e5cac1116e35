"""Measuring the networks of a comparison: a file that is damaged is not measured, and that is said."""

import math

from tests.helpers import described
from utils.comparison import make
from utils.comparison.results import Row
from utils.deploy import metadata


def test_a_damaged_export_is_not_measured_and_that_is_said(tmp_path, capsys):
    raw = bytearray(described())
    raw[2000] ^= 1  # in the model
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported/a.tflite").write_bytes(raw)
    (row,) = make.measured(None, tmp_path, None, {"a": Row("a", "uniform")}, metadata.read)
    assert math.isnan(row.measured_time) and row.file_bytes == len(raw)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"not measured, only predicted: {tmp_path}/exported/a.tflite: damaged, the model in it")
    assert line.endswith("remove it and repeat this command with --resume")
