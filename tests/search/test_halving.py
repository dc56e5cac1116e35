"""Successive halving alone: errors in, fates out."""

import math

import pytest

from utils.search import halving, netadapt
from utils.search.halving import Rung
from utils.search.netadapt import Candidate, Proposal

RUNGS = (Rung("score", 0, 100, 5, share=0.25, least=2), Rung("short", 20, 100, 5, share=0.1),
         Rung("full", 100, None, 5))


def proposals(count):
    return [Proposal(f"g{i}", 10, 5, 1.0) for i in range(count)]


def climb(errors, count=20):
    """errors: error of a group at a rung, {(group, rung): %}; otherwise the group's number."""
    asked = []

    def judge(rung, going):
        asked.append((rung.name, [p.group for p in going]))
        found = [errors.get((p.group, rung.name), float(p.group[1:])) for p in going]
        return [Candidate(p, error, error) for p, error in zip(going, found)]

    return halving.climb(proposals(count), RUNGS, judge, lambda found: netadapt.rank(found, "ratio")), asked


def test_the_better_part_goes_on_rung_by_rung():
    fates, asked = climb({})
    assert [(name, len(groups)) for name, groups in asked] == [("score", 20), ("short", 5), ("full", 2)]
    assert asked[1][1] == ["g0", "g1", "g2", "g3", "g4"] and asked[2][1] == ["g0", "g1"]
    assert (fates["g0", 5].rung.name, fates["g0", 5].stopped) == ("full", "1 of 2 at full")
    assert (fates["g4", 5].rung.name, fates["g4", 5].stopped) == ("short", "5 of 5 at short")
    assert (fates["g19", 5].rung.name, fates["g19", 5].stopped) == ("score", "20 of 20 at score")
    assert len(fates) == 20


def test_two_widths_of_a_group_are_two_candidates():
    found = [Proposal("g0", 10, width, 1.0) for width in (5, 0)]
    errors = {("g0", 5): 2.0, ("g0", 0): 1.0}
    judge = lambda rung, going: [Candidate(p, errors[p.key], errors[p.key]) for p in going]
    fates = halving.climb(found, RUNGS[-1:], judge, lambda tried: netadapt.rank(tried, "ratio"))
    assert {key: fate.stopped for key, fate in fates.items()} == {("g0", 0): "1 of 2 at full",
                                                                  ("g0", 5): "2 of 2 at full"}


def test_a_lost_loss_loses_but_does_not_end_the_search():
    fates, asked = climb({("g0", "short"): math.nan, ("g1", "full"): math.nan})
    assert asked[2][1] == ["g1", "g2"] and fates["g0", 5].stopped == fates["g1", 5].stopped == "its loss became NaN"
    assert fates["g2", 5].stopped == "1 of 2 at full"


def test_when_all_that_went_on_are_lost_the_next_ones_go_on():
    lost = {(f"g{i}", "full"): math.nan for i in range(2)}
    fates, asked = climb(lost)
    assert [groups for name, groups in asked if name == "full"] == [["g0", "g1"], ["g2", "g3"]]
    assert fates["g2", 5].stopped == "1 of 2 at full"
    lost.update({(f"g{i}", "full"): math.nan for i in range(5)})
    fates, asked = climb(lost)
    assert [groups[0] for name, groups in asked if name == "short"] == ["g0", "g5"]
    assert fates["g5", 5].rung.name == "full"
    everything = {(f"g{i}", rung.name): math.nan for i in range(20) for rung in RUNGS}
    fates, _ = climb(everything)
    assert {f.stopped for f in fates.values()} == {"its loss became NaN"}


@pytest.mark.parametrize("count, names", [(1, ["full"]), (2, ["short", "full"]), (3, ["score", "short", "full"])])
def test_where_there_is_nothing_to_decide_no_rung_is_climbed_for_it(count, names):
    fates, asked = climb({}, count)
    assert [name for name, _ in asked] == names and len(fates) == count


def test_ladders():
    assert [r.name for r in halving.ladder("full", 100)] == ["full"]
    rungs = halving.ladder("halving", 100)
    assert [(r.name, r.batches) for r in rungs] == [("score", 0), ("short", 20), ("full", 100)]
    assert rungs[-1].images is None and len({r.recalibration for r in rungs}) == 1
    assert [r.going_on(21) for r in rungs[:-1]] == [3, 1] and [r.going_on(10) for r in rungs[:-1]] == [2, 1]
    assert [(r.name, r.batches) for r in halving.ladder("halving", 2)] == [("score", 0), ("full", 2)]
    assert [(r.name, r.batches) for r in halving.ladder("halving", 0)] == [("score", 0), ("full", 0)]
    score, short, full = halving.ladder("quick", 100)
    assert score.own == score.images < rungs[0].images and short.frozen and full.frozen
    assert [(r.name, r.batches, r.share, r.least) for r in (score, short, full)] == [
        (r.name, r.batches, r.share, r.least) for r in rungs]
    score, full = halving.ladder("quick", 0)
    assert not score.recalibration and full.recalibration, "nothing else measures the statistics of the result"


def test_the_record_of_a_rung_is_that_of_older_runs_which_go_on():
    of_older = {"name", "batches", "images", "recalibration", "share", "least"}
    for name in ("full", "halving"):
        assert all(rung.as_record().keys() == of_older for rung in halving.ladder(name, 100))
    assert [set(rung.as_record()) - of_older for rung in halving.ladder("quick", 100)] == [
        {"own"}, {"own", "frozen"}, {"own", "frozen"}]
