"""benchmarks/judge.py: the report of rows made by hand, rows measured and resumed, and files that are none."""

import json
from dataclasses import asdict

import pytest

from tests.helpers import TINY, records_in, refused
from utils.common import journal
from utils.comparison.judges import WAYS, Row

JUDGE = "benchmarks/judge.py"
GROUPS = [g.name for g in TINY.groups if g.prunable]
FULL = [TINY.full_widths[g] for g in GROUPS]
NETWORKS = {f"n{i}": [*FULL[:-1], FULL[-1] - i] for i in range(5)}  # fewer parameters from one to the next
FLAGS = ("--networks=list.json", "--perf_table=table", "--dataset=digits")
MEASURE = (*FLAGS, "--base_model=base", "--ways", "recalibrated", "third")


@pytest.fixture
def here(priced):
    (priced / "list.json").write_text(json.dumps({
        "arguments": TINY.arguments, "groups": GROUPS, "networks": NETWORKS}))
    return priced


def by_hand(way, number, seed=100):
    """Retrained, a network is a point worse than the one before; after 3 epochs its training loss orders two
    differently; all other numbers are as the number of parameters."""
    error = {"scratch_20": 16.0 + number, "scratch_3": 40 - number}.get(way, 50 + number)
    loss = [0, 2, 1, 3, 4][number] if way == "scratch_3" else number
    return Row(f"n{number}", NETWORKS[f"n{number}"], way, seed, error, 1 + error / 100, error + 0.5,
               [3.0] * (WAYS[way].epochs - 1) + [1 + 0.1 * loss], 1.0, "a machine")


def write_rows(here, rows):
    journal.begin(here / "list.jsonl", {"format": 1, "groups": GROUPS, "base_weights_sha256": "none"})
    with journal.Journal(here / "list.jsonl") as log:
        for row in rows:
            log.append(row if isinstance(row, dict) else asdict(row))


EVERY = [by_hand(way, number) for way in WAYS for number in range(5)]


def test_the_report_of_known_ranks(here, script):
    write_rows(here, [*EVERY, by_hand("scratch_20", 0, seed=101)])
    found = script(JUDGE, *FLAGS, "--report", check=True).stdout
    assert found.startswith("5 of 5 networks have a row of every way\n")
    cells = {line.split(" | ")[0][2:]: line.split(" | ")[1] for line in found.splitlines() if line.startswith("| ")}
    assert cells["judge"] == "all: 5"
    assert cells["parameters"] == cells["1 epoch: training loss"] == "1.00 (1.00 to 1.00)"
    assert cells["latency, the slowest first"] == "1.00 (1.00 to 1.00)"  # of the table: narrower is faster
    assert cells["3 epochs: held-out error"] == "−1.00 (−1.00 to −1.00)"
    assert cells["3 epochs: training loss"].startswith("0.90 (")  # 1 - 6 * 2 / (5 * 24)
    assert len(cells) == 1 + 4 + 2 + 3 + 5 + 5 + 6
    assert "1 of 5 networks were retrained with several seeds; deviation of one retraining: 0.00 points" in found
    assert (here / "list.png").read_bytes().startswith(b"\x89PNG")


def test_rows_of_other_widths_and_networks_without_every_row_do_not_count(here, script):
    write_rows(here, [row if row.network != "n4" or row.way != "third" else by_hand("third", 3) for row in EVERY])
    assert script(JUDGE, *FLAGS, "--report", check=True).stdout.startswith("4 of 5 networks")
    write_rows(here, [{**asdict(row), "widths": FULL} for row in EVERY])
    refused(script(JUDGE, *FLAGS, "--report"), "list.jsonl: 1 of 5 networks have a row of every way")


def test_measured_interrupted_and_resumed(here, script):
    assert script(JUDGE, *MEASURE, check=True).stdout.splitlines()[-1].startswith(
        "list.jsonl: 0 of 5 networks have a row of every way")
    whole = (here / "list.jsonl").read_bytes()
    first = records_in(here / "list.jsonl")
    assert [(r["way"], r["network"]) for r in first[1:]] == [
        (way, name) for way in ("recalibrated", "third") for name in NETWORKS]
    assert all(0 < r["held_out_error_pct"] < 100 and len(r["losses"]) == (r["way"] == "third") for r in first[1:])
    lines = whole.splitlines(keepends=True)
    (here / "list.jsonl").write_bytes(b"".join(lines[:-2]) + lines[-2][:40])  # as a crash may leave it
    found = script(JUDGE, *MEASURE, check=True).stdout.splitlines()
    assert [line.split(": held-out")[0] for line in found[:-1]] == ["1 of 2: third, n3", "2 of 2: third, n4"]
    again = records_in(here / "list.jsonl")
    assert [{**r, "seconds": 0} for r in again[1:]] == [{**r, "seconds": 0} for r in first[1:]]
    assert again[0] == first[0]
    found = script(JUDGE, *FLAGS, "--base_model=base", "--ways", "recalibrated", "--seed=7", check=True).stdout
    assert found.count(": recalibrated, ") == 5  # rows of another seed are others


def test_weights_are_of_one_base_network(here, script):
    refused(script(JUDGE, *FLAGS, "--ways", "fine_tuned"), "--base_model is needed")
    assert not (here / "list.jsonl").exists()
    write_rows(here, EVERY[:1])
    before = (here / "list.jsonl").read_bytes()
    refused(script(JUDGE, *MEASURE), "list.jsonl: of another base network than checkpoints/base.t7")
    assert (here / "list.jsonl").read_bytes() == before


@pytest.mark.parametrize("broken", [{"way": "guessed"}, {"losses": [None]}, {"held_out_loss": "low"}, {"more": 1},
                                    {"way": "scratch_20", "test_error_pct": None}])
def test_a_line_that_is_no_row_is_one_line(here, script, broken):
    write_rows(here, [*EVERY[:2], {**asdict(EVERY[2]), **broken}])
    refused(script(JUDGE, *FLAGS, "--report"), "list.jsonl: line 4 is no row of this benchmark")


def test_a_damaged_line_and_a_list_that_is_none_are_one_line(here, script):
    write_rows(here, EVERY)
    raw = (here / "list.jsonl").read_bytes()
    (here / "list.jsonl").write_bytes(raw.replace(b'"seed": 100', b'"seed": 101', 1))
    refused(script(JUDGE, *FLAGS, "--report"), "list.jsonl: line 2 is damaged")
    (here / "list.json").write_text(json.dumps({"arguments": TINY.arguments, "groups": GROUPS,
                                                "networks": {"thin": FULL[1:]}}))
    refused(script(JUDGE, *FLAGS, "--report"), "list.json: expected arguments of a network", "thin: widths")
