"""What must not change for WideResNets: each of these values was recorded from version 0.1.0.

The order of construction decides the weights of a seed; the order of groups and tables seeds batches, samples and
journals; names and words stand in everybody's files.
"""

import hashlib
import json

import numpy as np
import pytest
import torch

from model import tflite_net
from model.architectures import describe
from model.torch_net import TorchNet
from tests.helpers import arithmetic_table
from utils.common.fingerprint import sha256_of
from utils.latency import correction, sampling
from utils.latency.entries import Entries, probe_entry
from utils.latency.tables import latency_s

NETWORK = describe("res", depth=16, width=1.0)
NARROW = dict(NETWORK.full_widths, Conv_0=11, Conv_1_1_1=0, Conv_2_0_2=17, Conv_3_1_1=5)

RECORDED = {
    "state_dict": "136692a378b0ad8c",
    "weight_shapes": "26fd9d2b5312c42e",
    "weights": {"Conv_0.weight": [-0.006294831, 0.2658404, 0.008966857],
                "Skip_2.weight": [0.1287914, 0.07823869, -0.2273],
                "Conv_3_1_2.weight": [-7.816398, 0.02877233, 0.009937126],
                "FC.weight": [0.5252587, 0.0004261732, 0.005003005]},
    "channels": "ab212edc2dad3fb7",
    "table_sha256": "9958af823ea7b86e",
    "latency_s": 0.16863441,
    "counts": (78759, 12899968),
    "entries": 11232,
    "probe": ("No_Stride_3", 64, 64),
    "sample": "98749f20b0ec2f4b",
    "fitting": "bb2d4bd5f6a50be8",
    "judging": "abc8276526ac2dc9",
    "variants": {"Conv_0": "ad2f518ee9128caf",
                 "Stride_2": "108682f7cb3d5b4f",
                 "Join_3": "b19ee26a6e71ba60",
                 "FC": "8dfd6f580b4c7e07"},
    "whole": "42f1bfa8abe3caf5",
}


def digest(value):
    """Of plain data, or of bytes."""
    return hashlib.sha256(value if isinstance(value, bytes) else json.dumps(value).encode()).hexdigest()[:16]


def test_groups_and_tables_in_their_order_with_their_words():
    assert [g.name for g in NETWORK.groups] == [
        "image", "Conv_0", "Conv_1_0_1", "Conv_1_0_2", "Conv_1_1_1", "Conv_2_0_1", "Conv_2_0_2", "Conv_2_1_1",
        "Conv_3_0_1", "Conv_3_0_2", "Conv_3_1_1", "FC"]
    assert {key: (table.shape, table.operator) for key, table in NETWORK.tables.items()} == {
        "Conv_0": ((3, 16), "3x3 conv, stride 1, 32x32"), "Stride_1": ((16, 16), "3x3 conv, stride 1, 32x32"),
        "No_Stride_1": ((16, 16), "3x3 conv, stride 1, 32x32"), "Skip_1": ((16, 16), "1x1 conv, stride 1, 32x32"),
        "Join_1": ((16, 1), "1x1 add, stride 1, 32x32"), "Stride_2": ((16, 32), "3x3 conv, stride 2, 32x32"),
        "No_Stride_2": ((32, 32), "3x3 conv, stride 1, 16x16"), "Skip_2": ((16, 32), "1x1 conv, stride 2, 32x32"),
        "Join_2": ((32, 1), "1x1 add, stride 1, 16x16"), "Stride_3": ((32, 64), "3x3 conv, stride 2, 16x16"),
        "No_Stride_3": ((64, 64), "3x3 conv, stride 1, 8x8"), "Skip_3": ((32, 64), "1x1 conv, stride 2, 16x16"),
        "Join_3": ((64, 1), "1x1 add, stride 1, 8x8"),
        "FC": ((64, 1), "average pool, 1x1 linear to 10, stride 1, 8x8")}
    assert list(NETWORK.tables) == ["Conv_0", "Stride_1", "No_Stride_1", "Skip_1", "Join_1", "Stride_2", "No_Stride_2",
                                    "Skip_2", "Join_2", "Stride_3", "No_Stride_3", "Skip_3", "Join_3", "FC"]


def test_names_and_shapes_of_weights_in_their_order():
    model = TorchNet(NETWORK, NETWORK.full_widths)
    assert digest([[k, list(v.shape)] for k, v in model.state_dict().items()]) == RECORDED["state_dict"]
    assert digest([[k, list(v)] for k, v in NETWORK.weight_shapes(NARROW).items()]) == RECORDED["weight_shapes"]


def test_weights_of_a_seed():
    """As numbers: another processor may round otherwise."""
    torch.manual_seed(0)
    model = TorchNet(NETWORK, NETWORK.full_widths)
    found = {name: [float(v.double().sum()), float(v.flatten()[0]), float(v.flatten()[-1])]
             for name, v in model.state_dict().items() if name in ("Conv_0.weight", "Skip_2.weight",
                                                                    "Conv_3_1_2.weight", "FC.weight")}
    assert found.keys() == RECORDED["weights"].keys()
    for name, values in RECORDED["weights"].items():
        assert found[name] == pytest.approx(values, rel=1e-4, abs=1e-6)


def test_channel_files():
    assert digest(NETWORK.conv_channels(NARROW)) == RECORDED["channels"]
    assert "FC" not in NETWORK.conv_channels(NARROW)


def test_latencies_counts_and_hashes():
    table = arithmetic_table(NETWORK, scale=1)
    assert sha256_of(table)[:16] == RECORDED["table_sha256"]
    assert latency_s(NETWORK, NARROW, table) == pytest.approx(RECORDED["latency_s"], rel=1e-12)
    assert (NETWORK.parameter_count(NARROW), NETWORK.multiply_adds(NARROW)) == RECORDED["counts"]


def test_what_is_drawn_for_a_seed():
    entries = Entries(NETWORK)
    sample = sampling.choose(describe("res", depth=16, width=2.0), 0.12, 0)
    assert len(entries) == RECORDED["entries"]
    table, cin, cout = probe_entry(NETWORK)
    assert (table.key, cin, cout) == RECORDED["probe"]
    assert digest(np.asarray(sample.numbers).tolist()) == RECORDED["sample"]
    assert digest(correction.fitting_networks(NETWORK, 5, 0)) == RECORDED["fitting"]
    assert digest(correction.judging_networks(NETWORK, 5, 0)) == RECORDED["judging"]


@pytest.mark.parametrize("key, cin, cout", [("Conv_0", 3, 16), ("Stride_2", 5, 32), ("Join_3", 7, 7), ("FC", 9, 10)])
def test_bytes_of_a_variant(key, cin, cout):
    assert digest(tflite_net.variant(NETWORK.tables[key], cin, cout)) == RECORDED["variants"][key]


def test_bytes_of_a_whole_network():
    weights = tflite_net.random_weights(NETWORK, NARROW)
    assert digest(tflite_net.write(NETWORK, NARROW, weights)) == RECORDED["whole"]
