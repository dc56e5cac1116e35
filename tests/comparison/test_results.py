"""Results: a CSV file gives its rows back, and points are means over the seeds."""

import csv
import math

import pytest

from utils.common.errors import UserError
from utils.comparison import results
from utils.comparison.results import Point, Row


def rows():
    return [Row("a", "uniform", "", "n", "0", 0.4, math.nan, 6.0, 2.0, 2.2),
            Row("b", "uniform", "", "n", "1", 0.4, math.nan, 8.0, 2.0, 2.0),
            Row("c", "uniform", "", "n", "0", 0.2, 9.5, 4.0, 3.0, 3.0),
            Row("d", "netadapt", "bn", "n", "0", 0.4, 5.0, 5.0, 1.9, 1.9, 10, 20),
            Row("e", "unpruned", retrain_scratch=4.5, measured_time=5.0)]


def test_a_csv_gives_its_rows_back(tmp_path):
    (tmp_path / "r.csv").write_text(results.to_csv(rows()))
    line = (tmp_path / "r.csv").read_text().splitlines()[4]
    assert line.rpartition(",")[0] == "d,netadapt,bn,n,0,0.4,5,5,1.9,1.9,10,20,NaN,"
    assert results.to_csv(results.read_csv(tmp_path / "r.csv")) == results.to_csv(rows())


@pytest.mark.parametrize("was, now", [("0.4,5,5", "0.4,5,6"), ("criterion", "critexion"), ("20,NaN", "20,NaN,1"),
                                      ("netadapt,bn", "netadapt;bn")])
def test_an_edited_line_is_refused_until_the_column_of_checksums_is_deleted(tmp_path, capsys, was, now):
    path, text = tmp_path / "r.csv", results.to_csv(rows())
    path.write_text(text.replace(was, now))
    with pytest.raises(UserError, match=r"r.csv: line \d: damaged or edited, .*delete the column crc32 to read"):
        results.read_csv(path)
    assert capsys.readouterr().err == ""
    bare = [line.rpartition(",")[0] for line in text.splitlines()]
    path.write_text("\n".join(bare).replace("0.4,5,5", "0.4,5,6"))
    assert results.read_csv(path)[3].retrain_scratch == 6
    assert "r.csv: carries no checksum" in capsys.readouterr().err


def test_a_reordered_column_keeps_its_checksums(tmp_path):
    """As a spreadsheet may do it, with quotes."""
    path = tmp_path / "r.csv"
    path.write_text(results.to_csv(rows()))
    table = list(csv.reader(path.read_text().splitlines()))
    path.write_text("".join(",".join(f'"{cell}"' for cell in reversed(line)) + "\n" for line in table))
    assert results.to_csv(results.read_csv(path)) == results.to_csv(rows())


def test_points_are_means_over_the_seeds_and_the_front_has_the_best():
    found = results.points(rows())
    nan = pytest.approx(math.nan, nan_ok=True)
    assert found[0] == Point("netadapt bn", 1.9, 5.0, nan, 1, 1.9, 1.9, nan, "n")
    assert found[1] == Point("uniform", pytest.approx(2.1), 7.0, pytest.approx(math.sqrt(2)), 2, 2.0,
                             pytest.approx(2.1), nan, "n")
    assert [p.label for p in results.front(found)] == ["netadapt bn", "uniform"]
    assert [p.latency_s for p in results.front(found)] == [1.9, 3.0]  # 4.5% at 5 s is worse than 4% at 3 s


def test_networks_of_a_grid_are_told_apart_by_name():
    grid = [Row(n, "grid", "", n, "0", 0.4, math.nan, 6.0, 2.0, t)
            for n, t in (("res-10-1", 2.2), ("res-16-0.5", 2.05))]
    assert results.titles(results.points([*grid, *rows()[:2]])) == ["grid res-16-0.5", "uniform", "grid res-10-1"]
    assert results.titles(results.points(grid[:1])) == ["grid"]
