"""What makes a sum of layers the time of a network."""

from math import prod

import numpy as np
import pytest

from model.architectures import describe
from model.network import Group, Input, Network
from model.operators import Node, parameters_of, units
from tests.helpers import NETWORKS, TORCH_NETWORKS, arithmetic_table
from utils.common.errors import UserError
from utils.common.fingerprint import sha256_of
from utils.latency import correction
from utils.latency.note import Correction, correction_in, stamped
from utils.latency.table_files import write_pair
from utils.latency.tables import (
    by_layer,
    corrected,
    filter_weights,
    latency_s,
    output_key,
    read_measured,
    read_table,
)

NETWORK = describe("res", depth=16, width=1.0)


def networks_of(truth, table, count=30, noise=0.0):
    widths = correction.fitting_networks(NETWORK, count, 0)
    real = corrected(NETWORK, table, truth)
    random = np.random.default_rng(0)
    return widths, [latency_s(NETWORK, w, real) * (1 + noise * random.standard_normal()) for w in widths]


@pytest.mark.parametrize("factor, overhead", [(1.0, 0.0), (1.05, 0.0), (1.04, 3e-7), (0.93, 8e-7)])
def test_the_correction_of_known_networks_is_found(factor, overhead):
    table = arithmetic_table(NETWORK)
    scale = 1e-6 / np.median(np.concatenate([a.ravel() for a in table.values()]))
    table = {k: a * scale * 20 for k, a in table.items()}  # entries around 20 µs
    widths, seconds = networks_of(Correction(factor, overhead), table)
    found = correction.fit_correction(NETWORK, widths, seconds, table)
    assert found.factor == pytest.approx(factor, rel=2e-3) and found.overhead_s == pytest.approx(overhead, abs=1e-7)
    noisy = correction.fit_correction(NETWORK, *networks_of(Correction(factor, overhead), table, noise=0.01), table)
    others = correction.judging_networks(NETWORK, 30, 0)
    real, fitted = (corrected(NETWORK, table, c) for c in (Correction(factor, overhead), noisy))
    errors = [latency_s(NETWORK, w, fitted) / latency_s(NETWORK, w, real) - 1 for w in others]
    assert max(map(abs, errors)) < 0.02


def test_a_corrected_sum_is_the_formula():
    table = {k: np.full_like(a, 1e-5) for k, a in arithmetic_table(NETWORK).items()}
    found = Correction(1.1, 2e-6)
    for widths in correction.judging_networks(NETWORK, 5, 1):
        n = sum(layer.node.table is not None for layer in NETWORK.layers(widths))
        expected = 1.1 * (n * 1e-5 - (n - 1) * 2e-6)
        assert latency_s(NETWORK, widths, corrected(NETWORK, table, found)) == pytest.approx(expected)
    tiny = corrected(NETWORK, {k: a * 1e-3 for k, a in table.items()}, found)
    assert all((a > 0).all() for a in tiny.values())


def test_a_table_file_is_read_with_its_correction(tmp_path):
    table = arithmetic_table(NETWORK)
    write_pair(tmp_path / "t.pickle", table, {"correction": {"factor": 2.0, "overhead_s": 0.0}})
    found, note = read_measured(tmp_path / "t.pickle", NETWORK)
    assert all(np.array_equal(found[k], table[k]) for k in table) and note["correction"]["factor"] == 2
    assert all(np.allclose(read_table(tmp_path / "t.pickle", NETWORK)[k], 2 * table[k]) for k in table)


@pytest.mark.parametrize("weight_s, least, most", [(0.0, 0.0, 0.0), (1e-9, 0.9e-9, 1.1e-9), (4e-10, 3.6e-10, 4.4e-10)])
def test_a_term_of_the_weights_is_found_where_there_is_one(weight_s, least, most):
    table = {key: 1e-5 + 1e-11 * t.sides[0] ** 2 * filter_weights(t) for key, t in NETWORK.tables.items()}
    widths, seconds = networks_of(Correction(1.05, 2e-6, weight_s), table, noise=0.01)
    found = correction.fit_correction(NETWORK, widths, seconds, table)
    assert least <= found.weight_s <= most
    others = correction.judging_networks(NETWORK, 30, 0)
    real, fitted = (corrected(NETWORK, table, c) for c in (Correction(1.05, 2e-6, weight_s), found))
    errors = [latency_s(NETWORK, w, fitted) / latency_s(NETWORK, w, real) - 1 for w in others]
    assert max(map(abs, errors)) < 0.02


@pytest.mark.filterwarnings("error")
def test_a_single_network_gives_a_factor_and_no_warning():
    table = arithmetic_table(NETWORK)
    widths, seconds = networks_of(Correction(1.5, 0.0), table, 1)
    found = correction.fit_correction(NETWORK, widths, seconds, table)
    assert found.factor == pytest.approx(1.5) and found.overhead_s == found.weight_s == 0


def test_few_networks_show_no_term_of_the_weights():
    table = {k: np.full_like(a, 2e-5) for k, a in arithmetic_table(NETWORK).items()}
    widths, seconds = networks_of(Correction(1.0, 0.0, 1e-9), table)
    assert correction.fit_correction(NETWORK, widths[:9], seconds[:9], table).weight_s == 0
    assert correction.fit_correction(NETWORK, widths[:10], seconds[:10], table).weight_s > 5e-10


def test_what_is_cross_validated_was_not_fitted_to():
    table = {k: np.full_like(a, 2e-5) for k, a in arithmetic_table(NETWORK).items()}
    widths, seconds = networks_of(Correction(1.1, 2e-6, 1e-9), table)
    errors = correction.cross_validated(NETWORK, widths, np.array(seconds), table)
    assert errors.shape == (30,) and errors.max() < 1e-3
    seconds[7] *= 1.5  # what its fit has not seen
    errors = correction.cross_validated(NETWORK, widths, np.array(seconds), table)
    assert errors.argmax() == 7 and errors[7] == pytest.approx(1 / 3, abs=0.02)
    no_sum = np.array(seconds) * np.where(np.arange(30) % 2, 1.3, 0.7)
    assert correction.cross_validated(NETWORK, widths, no_sum, table).mean() > 0.2


def test_the_weights_of_an_operator_are_those_of_its_filters():
    tables = NETWORK.tables
    assert filter_weights(tables["No_Stride_3"])[[0, 0, 63], [0, 4, 63]].tolist() == [9, 45, 9 * 64 * 64]
    assert filter_weights(tables["Skip_2"])[2, 4] == 15
    assert filter_weights(tables["FC"])[:3].tolist() == [[10], [20], [30]]
    assert not filter_weights(tables["Join_3"]).any()
    depthwise = NETWORKS["depthwise"].tables
    assert filter_weights(depthwise["filter"])[:3].tolist() == [[9], [18], [27]]


@pytest.mark.parametrize("name", TORCH_NETWORKS)
def test_the_weights_of_a_networks_tables_are_those_of_its_layers(name):
    network = TORCH_NETWORKS[name]
    weights = {key: filter_weights(table) for key, table in network.tables.items()}
    for widths in [network.full_widths, *correction.judging_networks(network, 3, 0)]:
        expected = sum(prod(w.shape) for layer in network.layers(widths) if layer.node.name in network.priced
                       for w in parameters_of(layer.node, layer.cin, layer.cout).values() if len(w.shape) > 1)
        assert latency_s(network, widths, weights) == expected


def test_a_corrected_sum_with_weights_is_the_formula():
    table = {k: np.full_like(a, 1e-5) for k, a in arithmetic_table(NETWORK).items()}
    weights = {key: filter_weights(t) for key, t in NETWORK.tables.items()}
    for widths in correction.judging_networks(NETWORK, 5, 1):
        n = sum(layer.node.table is not None for layer in NETWORK.layers(widths))
        expected = 1.1 * (n * 1e-5 - (n - 1) * 2e-6) + 3e-10 * latency_s(NETWORK, widths, weights)
        found = latency_s(NETWORK, widths, corrected(NETWORK, table, Correction(1.1, 2e-6, 3e-10)))
        assert found == pytest.approx(expected)


@pytest.mark.parametrize("about, number", [
    ({}, 1), ({"correction": {"factor": 1.0, "overhead_s": 0.0}}, 1),
    ({"correction": {"factor": 1.0, "overhead_s": 0.0, "weight_s": 0.0}}, 1),
    ({"correction": {"factor": 1.0, "overhead_s": 0.0, "weight_s": 1e-10}}, 2),
    ({"correction": {"factor": 1.0, "overhead_s": 0.0, "weight_s": 1e-10, "cached_weights": 5e5}}, 3)])
def test_a_note_that_earlier_programs_would_misread_has_a_newer_format(about, number):
    assert stamped(about)["format"] == number


def test_notes_of_all_formats_are_read(tmp_path):
    table = arithmetic_table(NETWORK)
    for number, about in ((1, {"factor": 2.0, "overhead_s": 0.0}),
                          (2, {"factor": 2.0, "overhead_s": 0.0, "weight_s": 1e-9}),
                          (3, {"factor": 2.0, "overhead_s": 0.0, "weight_s": 1e-9, "cached_weights": 5e5})):
        write_pair(tmp_path / "t.pickle", table, stamped({"correction": about}))
        assert read_measured(tmp_path / "t.pickle", NETWORK)[1]["format"] == number
        read = read_table(tmp_path / "t.pickle", NETWORK)
        assert read["No_Stride_3"][9, 9] == pytest.approx(
            2 * table["No_Stride_3"][9, 9] + (900e-9 if number == 2 else 0))
        assert read.cached_s == pytest.approx(5e-4 if number == 3 else 0)
    write_pair(tmp_path / "t.pickle", table, {**stamped({}), "format": 4})
    with pytest.raises(UserError, match="t.json: .*format"):
        read_measured(tmp_path / "t.pickle", NETWORK)


@pytest.mark.parametrize("broken", [None, [], {}, {"factor": 1.0}, {"factor": "1", "overhead_s": 0},
                                    {"factor": 0, "overhead_s": 0},
                                    {"factor": float("nan"), "overhead_s": 0}, {"factor": 1.0, "overhead_s": -1},
                                    {"factor": True, "overhead_s": 0}, *(
                                        {"factor": 1.0, "overhead_s": 0, "weight_s": w}
                                        for w in (-1e-10, "x", None, True, 1.0, float("nan"))), *(
                                        {"factor": 1.0, "overhead_s": 0, "weight_s": 1e-10, "cached_weights": w}
                                        for w in (-1, "x", None, True, float("inf"), float("nan")))])
def test_a_correction_that_makes_no_sense_is_none(broken):
    assert correction_in({"correction": broken}) is None


@pytest.mark.parametrize("name", NETWORKS)
def test_random_networks_are_valid_different_and_never_both_fitted_and_judged(name):
    network = NETWORKS[name]
    fitted = [correction.fitting_networks(network, 20, seed) for seed in (0, 1)]
    judged = [correction.judging_networks(network, 20, seed) for seed in (0, 1)]
    for widths in sum(fitted + judged, []):
        network.check_widths(widths)
    assert fitted[0][0] == network.full_widths and correction.fitting_networks(network, 0, 0) == []
    if name != "depthwise":  # that one is too small for 80 different networks
        random = [str(sorted(w.items())) for group in (fitted[0][1:], fitted[1][1:], *judged) for w in group]
        assert len(set(random)) == len(random)
        assert any(0 in w.values() for w in judged[0])


def test_networks_to_fit_on_are_small_enough_for_the_memory():
    wide = describe("res", depth=16, width=10.0)
    found = correction.fitting_networks(wide, 10, 0)
    assert len(found) == 10 and found[0] == wide.full_widths  # of 17 million
    assert all(wide.parameter_count(w) <= 30_000_000 for w in found)
    assert len(correction.fitting_networks(describe("res", depth=16, width=64.0), 10, 0)) < 10


def test_the_last_layer_that_is_priced_pays_for_the_invocation():
    """A network may end in a layer that takes no time, such as dropping the sides of one pixel."""
    groups = (Group("image", 3, prunable=False), Group("a", 8), Group("classes", 5, prunable=False))
    nodes = (Node("stem", "conv", ("image",), units("a"), kernel=3),
             Node("logits", "conv", ("stem",), units("classes")), Node("mean", "adaptive_average_pool", ("logits",)),
             Node("vector", "flatten", ("mean",)))
    network = Network({"net": "n"}, (Input("image", "image", 8),), groups, nodes)
    assert "vector" not in network.priced and output_key(network) == "adaptive_average_pool_to1_at_8x8"
    table = {key: np.full(t.shape, 5e-6) for key, t in network.tables.items()}
    sums = latency_s(network, network.full_widths, corrected(network, table, Correction(1.0, 2e-6)))
    assert sums == pytest.approx(3 * 5e-6 - 2 * 2e-6)


@pytest.mark.parametrize("width, found", [(1.0, {}), (10.0, {"most_parameters": 30_000_000})])
def test_a_wide_network_is_not_resumed_with_other_networks_to_fit_on(width, found):
    assert correction.limits(describe("res", depth=16, width=width)) == found


def test_a_correction_with_weights_is_the_formula_and_older_versions_refuse_its_note():
    table = {k: np.full_like(a, 1e-5) for k, a in arithmetic_table(NETWORK).items()}
    found = Correction(1.1, 2e-6, 3e-10)
    widths = NETWORK.full_widths
    weights = sum(int(np.prod(w.shape)) for n, w in NETWORK.weights(widths).items() if len(w.shape) > 1)
    n = sum(layer.node.table is not None for layer in NETWORK.layers(widths))
    expected = 1.1 * (n * 1e-5 - (n - 1) * 2e-6) + weights * 3e-10
    assert latency_s(NETWORK, widths, corrected(NETWORK, table, found)) == pytest.approx(expected)
    about = {"factor": 1.1, "overhead_s": 2e-6}
    assert stamped({"correction": about})["format"] == 1 and stamped({})["format"] == 1
    heavy = stamped({"correction": {**about, "weight_s": 3e-10}})
    assert heavy["format"] == 2 and correction_in(heavy) == found
    assert correction_in({"correction": {**about, "weight_s": -1.0}}) is None


def test_random_networks_have_multiples_where_a_search_proposes_them():
    for widths in correction.judging_networks(NETWORK, 20, 0, 8) + correction.fitting_networks(NETWORK, 20, 0, 8):
        NETWORK.check_widths(widths)
        assert all(w % 8 == 0 or w == NETWORK.group[g].width for g, w in widths.items())
    assert any(w % 8 for widths in correction.judging_networks(NETWORK, 5, 0) for w in widths.values())


# --- weights that a cache holds --------------------------------------------------------------------------------

CACHED = Correction(1.05, 2e-6, 1e-9, 60_000.0)  # of a network with 175,322 parameters


def flat_table():
    return {key: 1e-5 + 1e-11 * t.sides[0] ** 2 * filter_weights(t) for key, t in NETWORK.tables.items()}


def test_a_network_whose_weights_fit_into_a_cache_pays_nothing_for_memory():
    table, weights = flat_table(), {key: filter_weights(t) for key, t in NETWORK.tables.items()}
    with_cache, without = (corrected(NETWORK, table, c) for c in (CACHED, Correction(1.05, 2e-6)))
    beyond = []
    for widths in correction.judging_networks(NETWORK, 12, 1):
        more = latency_s(NETWORK, widths, with_cache) - latency_s(NETWORK, widths, without)
        beyond.append(latency_s(NETWORK, widths, weights) - 60_000)
        assert more == pytest.approx(max(beyond[-1], 0) * 1e-9, abs=1e-12)
    assert min(beyond) < 0 < max(beyond)


def test_what_a_cache_holds_is_found():
    table, others = flat_table(), correction.judging_networks(NETWORK, 30, 0)
    widths, seconds = networks_of(CACHED, table, noise=0.005)
    found = correction.fit_correction(NETWORK, widths, seconds, table)
    assert 45_000 < found.cached_weights < 75_000 and found.weight_s == pytest.approx(1e-9, rel=0.2)
    real, fitted = (corrected(NETWORK, table, c) for c in (CACHED, found))
    errors = [latency_s(NETWORK, w, fitted) / latency_s(NETWORK, w, real) - 1 for w in others]
    assert max(map(abs, errors)) < 0.02
    assert correction.cross_validated(NETWORK, widths, np.array(seconds), table).mean() < 0.01


@pytest.mark.parametrize("truth", [Correction(1.05, 2e-6, 1e-9), Correction(1.05, 2e-6)])
def test_no_cache_is_found_where_there_is_none(truth):
    table = flat_table()
    found = correction.fit_correction(NETWORK, *networks_of(truth, table, noise=0.005), table)
    assert found.cached_weights == 0 and (found.weight_s > 0) == (truth.weight_s > 0)


@pytest.mark.parametrize("narrow", [False, True])
def test_layers_share_what_a_cache_saves(narrow):
    table = corrected(NETWORK, flat_table(), CACHED)
    widths = correction.judging_networks(NETWORK, 12, 1)[0] if narrow else NETWORK.full_widths
    layers = by_layer(NETWORK, widths, table)
    assert sum(s for _, s in layers) == pytest.approx(latency_s(NETWORK, widths, table), rel=1e-12)
    plain = by_layer(NETWORK, widths, table.entries)
    assert all(a[1] >= b[1] for a, b in zip(layers, plain))


def test_a_table_with_another_cache_is_another_table():
    table = flat_table()
    prints = {sha256_of(corrected(NETWORK, table, Correction(1.05, 2e-6, w, c)).all())
              for w, c in ((1e-9, 6e4), (1e-9, 7e4), (2e-9, 6e4), (1e-9, 0.0))}
    assert len(prints) == 4
    assert sha256_of(corrected(NETWORK, table, None).all()) == sha256_of(table)
