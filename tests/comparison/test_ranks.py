"""Rank correlations and what is made of them, by hand."""

import math

import pytest

from utils.comparison import ranks


def test_spearman_sees_order_alone_and_shares_ranks_among_equals():
    assert ranks.spearman([1, 2, 3, 4], [10, 100, 1000, 1001]) == 1
    assert ranks.spearman([4, 3, 2, 1], [10, 100, 1000, 1001]) == -1
    assert ranks.spearman([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(0.8)  # 1 - 6 * 2 / (4 * 15)
    assert ranks.spearman([1, 1, 2, 3], [1, 2, 3, 4]) == pytest.approx(4.5 / math.sqrt(4.5 * 5))  # ranks 1.5 1.5 3 4
    assert math.isnan(ranks.spearman([1, 1, 1], [1, 2, 3])) and math.isnan(ranks.spearman([], []))


def test_an_interval_holds_the_correlation_and_is_the_same_every_time():
    a, b = list(range(12)), [7, 0, 2, 4, 3, 5, 8, 6, 1, 9, 11, 10]
    low, high = ranks.interval(a, b)
    assert low < ranks.spearman(a, b) < high < 1
    assert (low, high) == ranks.interval(a, b) != ranks.interval(a, b, seed=1)
    assert ranks.interval(a, a) == (1, 1)


def test_an_advantage_is_that_of_one_judge_over_another_on_the_same_networks():
    truth, good, bad = list(range(12)), [1, 0, 2, 4, 3, 5, 8, 6, 7, 9, 11, 10], [5, 9, 0, 7, 2, 11, 1, 8, 3, 6, 10, 4]
    low, high = ranks.advantage(good, bad, truth)
    assert 0 < low < ranks.spearman(good, truth) - ranks.spearman(bad, truth) < high
    assert ranks.advantage(bad, good, truth) == pytest.approx((-high, -low))
    assert ranks.advantage(good, good, truth) == (0, 0)


def test_what_is_left_where_another_order_is_known():
    truth, judge, known = [1, 2, 3, 4], [1, 2, 4, 3], [2, 1, 3, 4]
    r = 0.8  # of the truth with either; of both with each other 1 - 6 * 4 / 60 = 0.6
    assert ranks.partial(judge, truth, known) == pytest.approx((r - r * 0.6) / math.sqrt((1 - r * r) * (1 - 0.36)))
    assert math.isnan(ranks.partial(judge, truth, judge))


def test_pairs_that_two_judges_order_differently():
    truth = [1, 2, 3, 4]
    assert ranks.contested([1, 2, 3, 4], [2, 1, 4, 3], truth) == (2, 0)
    assert ranks.contested([2, 1, 3, 4], [1, 2, 4, 3], truth) == (1, 1)
    for other in ([2, 1, 3, 4], [1, 2, 3, 4]):
        assert ranks.contested([1, 1, 3, 4], other, truth) == (0, 0)  # a pair that one of them does not order
    assert ranks.contested([1, 2, 3, 4], [2, 1, 3, 4], [5, 5, 6, 7]) == (0, 0)  # nor the truth


def test_what_a_choice_costs():
    assert ranks.cost_of_choice([3, 1, 2], [16.0, 16.5, 15.5]) == 1.0
    assert ranks.cost_of_choice([3, 1, 0], [16.0, 16.5, 15.5]) == 0.0
