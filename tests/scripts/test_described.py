"""A network that a file of networks/ describes is trained, pruned, and retrained; what cannot take it says so."""

import json

import pytest
import torch

from model.description import as_dict, from_dict
from tests.helpers import TINY, contents, every_operator, proportional_table, refused
from utils.common.files import write_whole
from utils.latency.table_files import write_pair
from utils.latency.tables import latency_s, read_table

TRAIN = ["train.py", "--net=mine", "--dataset=digits", "--epochs=1", "--batch_size=64", "--threads=1"]


@pytest.fixture
def mine(tmp_path):
    """networks/mine.json, of all operators, for the digits in 12 x 12 pixels."""
    content = as_dict(every_operator(), "mine")
    content["inputs"][0]["size"] = 12
    content["groups"][-1]["width"] = 10
    (tmp_path / "networks").mkdir()
    write_whole(tmp_path / "networks/mine.json", json.dumps(content))
    return content


@pytest.mark.slow
def test_it_is_trained_pruned_retrained_and_exported(mine, script, process, tmp_path):
    network = from_dict(mine)
    said = script(*TRAIN, "--save_file=base", check=True).stdout
    assert f"mine: {network.parameter_count(network.full_widths):,} parameters" in said
    pruning = ["prune.py", "--base_model=base", "--perf_table=macs", "--save_file=pruned", "--pruning_fact=0.4",
               "--init_red_fact=3", "--short_term_fine_tune=2", "--batch_size=64", "--removals=always", "--threads=1"]
    script(*pruning, check=True)
    pruned = torch.load(tmp_path / "checkpoints/pruned.t7", weights_only=True)
    assert network.multiply_adds(pruned["widths"]) <= 0.6 * network.multiply_adds(network.full_widths)
    (tmp_path / "networks/mine.json").unlink()  # the checkpoint has the description
    assert "finished already" in script(*pruning, "--resume", check=True).stdout
    write_whole(tmp_path / "networks/mine.json", json.dumps(mine))
    script(*TRAIN, "--channels=pruned", "--save_file=again", check=True)
    again = torch.load(tmp_path / "checkpoints/again.t7", weights_only=True)
    assert again["widths"] == pruned["widths"] and again["arguments"] == json.loads(json.dumps(network.arguments))
    found = process("export.py", "--checkpoint=again", "--output=a.onnx", "--no_measure")
    assert found.returncode == 0 and "the same top class" in found.stdout and (tmp_path / "a.onnx").exists()
    found = process("export.py", "--checkpoint=again", "--output=a.tflite", "--no_measure")
    assert found.returncode == 0 and "the same top class on 100.0%" in found.stdout, found.stderr


BUILD = ["compute_table.py", "--mode=build", "--net=mine", "--num_measures=2", "--patience=0"]


def test_its_table_is_built_by_operator_validated_and_prunes_it(mine, script, tmp_path):
    network = from_dict(mine)
    script(*BUILD, "--save_file=mine", "--sample=0.8", "--calibrate=3", check=True)
    table = read_table(tmp_path / "perf_tables/mine.pickle", network)
    assert table.keys() == network.tables.keys() == set(network.priced.values())
    note = json.loads((tmp_path / "perf_tables/mine.json").read_text())
    assert note["operators"]["max_pool_3x3_s2_p1_at_12x12"] == "max_pool_3x3_s2_p1_at_12x12, in steps of 1 and 1"
    judged = json.loads(script("compute_table.py", "--mode=validate", "--net=mine", "--perf_table=mine", "--json",
                               "--num_networks=3", check=True).stdout)
    assert len(judged["networks"]) == 3 and all(n["predicted_s"] > 0 for n in judged["networks"])
    script("perf_tables/merge_perf_tables.py", "twice", "mine", "mine", check=True)
    script("perf_tables/plot_perf_table.py", "mine", "twice", check=True)
    assert read_table(tmp_path / "perf_tables/twice.pickle", network).keys() == table.keys()
    table = proportional_table(network)
    write_pair(tmp_path / "perf_tables/even.pickle", table, {})
    script(*TRAIN, "--save_file=base", check=True)
    script("prune.py", "--base_model=base", "--perf_table=even", "--method=uniform", "--pruning_fact=0.3",
           "--save_file=pruned", "--threads=1", check=True)
    pruned = torch.load(tmp_path / "checkpoints/pruned.t7", weights_only=True)
    assert latency_s(network, pruned["widths"], table) <= 0.7 * latency_s(network, network.full_widths, table)


def test_a_table_of_another_network_is_refused(mine, script, tmp_path):
    (tmp_path / "perf_tables").mkdir()
    write_pair(tmp_path / "perf_tables/t.pickle", proportional_table(TINY), {})
    before = contents(tmp_path)
    refused(script("compute_table.py", "--mode=validate", "--net=mine", "--perf_table=t"),
            "perf_tables/t.pickle: not a table of net mine", "expected no such key, found (3, 16)")
    assert contents(tmp_path) == before
    script(*TRAIN, "--save_file=base", check=True)
    for command in (["prune.py", "--pruning_fact=0.4"], ["compare.py", "--pruning_facts", "0.4"]):
        refused(script(*command, "--base_model=base", "--perf_table=t", "--save_file=x"),
                "perf_tables/t.pickle: not a table of net mine")


def test_a_sample_of_its_files_is_saved_and_loaded(mine, script, tmp_path):
    files = ["compute_table.py", "--net=mine", "--save_file=x", "--sample=0.8", "--calibrate=0", "--num_measures=2"]
    script(*files, "--mode=save", check=True)
    found = len(list((tmp_path / "tflite_files").glob("*/*.tflite")))
    whole = sum(t.rows * t.columns for t in from_dict(mine).tables.values())
    assert 0.5 * whole < found <= 0.8 * whole
    refused(script(*files[:-3], "--mode=load"), "missing, as are", "the same --sample and --seed")
    script(*files, "--mode=load", check=True)
    assert json.loads((tmp_path / "perf_tables/x.json").read_text())["entries"] == found
    mine["nodes"][0]["kernel"] = 5
    write_whole(tmp_path / "networks/mine.json", json.dumps(mine))
    wrong = script(*files, "--mode=load")
    refused(wrong, "manifest.json: these files are for network net=mine", "another description")
    assert len(wrong.stderr) < 500


def test_a_comparison_takes_a_description_and_says_that_it_has_no_grid(script, tmp_path):
    for name in ("networks", "perf_tables"):
        (tmp_path / name).mkdir()
    write_whole(tmp_path / "networks/mine.json", json.dumps(as_dict(TINY, "mine")))
    write_pair(tmp_path / "perf_tables/t.pickle", proportional_table(TINY), {})
    script(*TRAIN, "--save_file=base", check=True)
    (tmp_path / "networks/mine.json").unlink()  # the checkpoint has the description
    found = script("compare.py", "--base_model=base", "--perf_table=t", "--pruning_facts", "0.4", "--save_file=c",
                   "--seeds", "0", "--methods", "uniform", "grid", "unpruned", "--no_measure", "--threads=1",
                   "--train_flags=--epochs=1 --batch_size=64", check=True)
    assert "grid: left out, mine is of no architecture and has no smaller siblings" in found.stdout
    rows = (tmp_path / "comparisons/c/c.csv").read_text().splitlines()
    assert len(rows) == 3 and all(",mine," in row for row in rows[1:])


def test_what_no_file_can_hold_is_named_before_anything_is_measured(mine, script, tmp_path):
    next(n for n in mine["nodes"] if n["name"] == "max").update(dilation=2, kernel=2, padding=[1, 1, 1, 1])
    write_whole(tmp_path / "networks/mine.json", json.dumps(mine))
    refused(script(*BUILD, "--save_file=x", "--calibrate=0"), "max_pool",
            "a .tflite file has no max pool with dilation 2")
    assert not list((tmp_path / "perf_tables").glob("*.pickle"))


@pytest.mark.parametrize("net, words", [
    ("other", ", or a description, but networks/other.json is not there"),
    ("./other.json", "other.json: No such file or directory; expected a description"),
    ("networks/broken.json", "networks/broken.json: nodes[0].kernel: expected a whole number"),
    ("torn", "networks/torn.json: "), ("networks", "--net=networks: expected one of res")])
def test_what_is_no_network_is_said(mine, script, tmp_path, net, words):
    mine["nodes"][0]["kernel"] = 0
    write_whole(tmp_path / "networks/broken.json", json.dumps(mine))
    write_whole(tmp_path / "networks/torn.json", json.dumps(mine)[:100])
    refused(script("train.py", f"--net={net}", "--dataset=digits", "--save_file=x"), words)
    refused(script("compute_table.py", "--mode=build", f"--net={net}", "--save_file=x"), words)


def test_a_network_for_other_images_is_refused_before_training(mine, script, tmp_path):
    def written(classes, channels=3):
        mine["groups"][0]["width"], mine["groups"][-1]["width"] = channels, classes
        write_whole(tmp_path / "networks/mine.json", json.dumps(mine))
    written(10)
    refused(script(*TRAIN, "--save_file=x", "--img_size=32"), "--img_size=32: networks/mine.json is a network of")
    written(10, channels=2)
    refused(script(*TRAIN, "--save_file=x"), "a network that reads 1 images of 2 channels")
    written(7)
    refused(script(*TRAIN, "--save_file=x"), "--net=mine: tells 7 classes apart, but the data has 10")


@pytest.mark.parametrize("channels, size", [(1, 12), (3, [12, 10])])
def test_grey_and_oblong_images_go_all_the_way(mine, script, tmp_path, channels, size):
    mine["groups"][0]["width"], mine["inputs"][0]["size"] = channels, size
    write_whole(tmp_path / "networks/mine.json", json.dumps(mine))
    script(*TRAIN, "--save_file=base", check=True)
    script("prune.py", "--base_model=base", "--perf_table=macs", "--save_file=pruned", "--pruning_fact=0.3",
           "--init_red_fact=2", "--short_term_fine_tune=1", check=True)
    found = torch.load(tmp_path / "checkpoints/pruned.t7", weights_only=True)
    assert len(found["normalisation"]["mean"]) == channels and found["table_costs_history"][-1] > 0


def test_a_file_with_the_name_of_an_architecture_is_said(mine, script, tmp_path):
    write_whole(tmp_path / "networks/res.json", json.dumps(mine))
    found = script("train.py", "--depth=10", "--width=0.0625", "--dataset=digits", "--epochs=1", "--save_file=x",
                   check=True)
    assert "note: --net=res is an architecture; networks/res.json is not read" in found.stderr
