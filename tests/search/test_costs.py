"""Costs: counts are the description's own, shown in their unit; a plain callable gives seconds."""

from tests.helpers import SMALL
from utils.search.costs import COUNTS, LATENCY, Cost, unit_of


def test_counts_are_of_the_description_in_units_that_people_read():
    widths = dict(SMALL.full_widths, Conv_0=9)
    macs, params = COUNTS["macs"](SMALL), COUNTS["params"](SMALL)
    assert macs(widths) == SMALL.multiply_adds(widths) and params(widths) == SMALL.parameter_count(widths)
    assert macs.unit.words(1_234_567) == "1.2346 M MACs" and params.unit.short(1_234) == "1.234 k parameters"


def test_latencies_are_seconds_shown_in_milliseconds():
    assert unit_of(lambda widths: 1.0) is unit_of(Cost(lambda widths: 1.0)) is LATENCY
    assert LATENCY.words(0.00123456) == "1.2346 ms" and LATENCY.short(0.00123456) == "1.235 ms"
