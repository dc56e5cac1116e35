"""Files and versions: what this version writes says so; files of an older one are read and resumed, those of a newer
one refused in a line."""

import json
import shutil

import pytest
import torch

from tests.helpers import (
    PRUNE,
    TINY,
    TINY_FLAGS,
    TRAIN,
    contents,
    described,
    proportional_table,
    records_in,
    refused,
    run_here,
    saved_anew,
    written_anew,
)
from utils.common.files import write_whole
from utils.common.provenance import KEYS, VERSION, made_by
from utils.comparison import assembly, results
from utils.deploy import metadata
from utils.latency.table_files import write_pair
from utils.learning import training

COMPARE = ["compare.py", "--save_file=c", "--base_model=base", "--perf_table=table", "--pruning_facts", "0.3",
           "--seeds", "0", "--methods", "uniform", "--train_flags=--epochs=1", "--no_measure"]
SMALLEST = ["compute_table.py", "--depth=10", "--width=0.0625"]
BUILD = [*SMALLEST, "--mode=build", "--save_file=built", "--num_measures=1", "--num_passes=1", "--calibrate=0"]


def edited(path, change):
    """Change what a file says of itself: a checkpoint, a JSON file, or the first line of a journal."""
    if path.suffix == ".t7":
        content = torch.load(path, weights_only=True)
        change(content)
        saved_anew(path, content)
    elif path.suffix == ".json":
        content = json.loads(path.read_text())
        change(content)
        written_anew(path, content)
    else:
        first, *rest = records_in(path)
        change(first)
        if isinstance(rest[-1], dict):
            rest[-1].pop("sha256", None)
        write_whole(path, "".join(json.dumps(record) + "\n" for record in (first, *rest)))


def older(content):
    """As version 0.1.0 wrote it, without checksums."""
    for key in KEYS:
        content.pop(key)


def newer(content):
    content.update(format=9, made_by="9.9.9")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, trained):
    """A folder with a finished comparison and a finished pruning, which have a bit of everything."""
    folder = tmp_path_factory.mktemp("finished")
    for name in ("checkpoints", "perf_tables"):
        (folder / name).mkdir()
    (folder / "checkpoints/base.t7").write_bytes(trained)
    write_pair(folder / "perf_tables/table.pickle", proportional_table(TINY), {})
    for command in (COMPARE, PRUNE):
        assert run_here(*command, cwd=folder).returncode == 0
    return folder


@pytest.fixture
def compared(finished, tmp_path):
    """A copy of it."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def built(tmp_path, script):
    script(*BUILD, check=True)
    return tmp_path / "perf_tables"


def says(content):
    return content["made_by"] == made_by() and made_by().startswith(VERSION) and content["format"] == 1


def first_line(path):
    return records_in(path)[0]


def test_checkpoints_histories_and_comparisons_say_which_version_made_them(compared):
    folder = compared / "comparisons/c"
    for name in ("uniform-0.3-seed0", "uniform-0.3-seed0-pruned"):
        assert says(torch.load(folder / f"checkpoints/{name}.t7", weights_only=True))
    assert says(first_line(folder / "history/uniform-0.3-seed0-pruned.jsonl")) and says(
        first_line(folder / "journal.jsonl"))
    assert [row.made_by for row in results.read_csv(folder / "c.csv")] == [made_by()]


def test_tables_and_their_files_say_which_version_made_them(built, script, tmp_path):
    script("perf_tables/merge_perf_tables.py", "merged", "built", "built", check=True)
    for note in ("built.json", "merged.json"):
        assert says(json.loads((built / note).read_text()))
    assert says(first_line(built / "built.journal"))
    script(*SMALLEST, "--mode=save", "--save_file=x", "--output_folder=f", check=True)
    assert says(json.loads((tmp_path / "f/manifest.json").read_text()))
    (tmp_path / "a.tflite").write_bytes(described())
    assert says(json.loads(script("compute_table.py", "--mode=measure", "--model=a.tflite", "--json",
                                  check=True).stdout))


# --- an older version's ----------------------------------------------------------------------------------------

def test_an_older_training_is_resumed_to_the_same_result(tmp_path, script, monkeypatch):
    flags = [*TRAIN[:-2], "--epochs=2"]
    script(*flags, "--save_file=whole", check=True)
    epoch = training.train_epoch

    def stopped(model, optimizer, source, device, rate, number, *rest):
        if number[1] == 1:
            raise KeyboardInterrupt
        return epoch(model, optimizer, source, device, rate, number, *rest)

    monkeypatch.setattr(training, "train_epoch", stopped)
    assert script(*flags, "--save_file=base").returncode == 130
    monkeypatch.undo()
    path, unfinished = tmp_path / "checkpoints/base.t7", tmp_path / "checkpoints/base.unfinished.t7"
    edited(unfinished, older)
    unfinished.rename(path)  # where older versions kept it
    script(*flags, "--save_file=base", "--resume", check=True)
    found, whole = (torch.load(path.with_name(f"{n}.t7"), weights_only=True) for n in ("base", "whole"))
    assert found["error_history"] == whole["error_history"] and says(found) and not unfinished.exists()
    assert all(torch.equal(found["state_dict"][k], v) for k, v in whole["state_dict"].items())


def test_an_older_pruning_is_resumed_to_the_same_result(compared, script):
    history, unfinished = compared / "history/pruned.jsonl", compared / "history/pruned.unfinished.jsonl"
    whole = records_in(history)[1:-1]
    edited(history, older)
    edited(compared / "checkpoints/pruned.t7", older)
    before = contents(compared / "history")
    script(*PRUNE, "--resume", check=True)  # it is finished
    assert contents(compared / "history") == before
    unfinished.write_text(history.read_text().splitlines(keepends=True)[0])  # as it stood at the beginning
    for path in (history, compared / "checkpoints/pruned.t7"):
        path.unlink()
    edited(compared / "checkpoints/base.t7", older)
    script(*PRUNE, "--resume", check=True)
    assert records_in(history)[1:-1] == whole


def test_an_older_table_is_resumed_and_read(built, script):
    journal = built / "built.journal"
    edited(journal, older)
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:len(lines) // 2]))
    script(*BUILD, "--resume", check=True)
    assert journal.read_text().startswith("".join(lines[:len(lines) // 2]))
    assert says(json.loads((built / "built.json").read_text()))
    edited(built / "built.json", older)
    script("perf_tables/merge_perf_tables.py", "merged", "built", "built", check=True)
    script("perf_tables/plot_perf_table.py", "built", check=True)


def test_an_older_comparison_goes_on(compared, script):
    journal = compared / "comparisons/c/journal.jsonl"
    header, row = records_in(journal)
    older(header)
    assert header.pop("precision") in ("fp32", "bf16")
    row.pop("made_by")
    journal.write_text(json.dumps(header) + "\n" + json.dumps(row) + "\n")
    assert assembly._precision_in(compared / "history") == "auto"
    for path in (compared / "comparisons/c/checkpoints").iterdir():
        edited(path, older)
        edited(path, lambda content: content["flags"].update(precision="bf16"))
    assert assembly._precision_in(compared / "comparisons/c") == "bf16"
    assert "1 networks, 0 to be made" in script(*COMPARE, "--resume", check=True).stdout
    (line,) = results.read_csv(compared / "comparisons/c/c.csv")
    assert line.made_by == "" and line.retrain_scratch == pytest.approx(row["retrain_scratch"])


def test_older_folders_and_exports_are_read(tmp_path, script):
    script(*SMALLEST, "--mode=save", "--save_file=x", "--output_folder=f", check=True)
    edited(tmp_path / "f/manifest.json", older)
    assert ": 0 files written" in script(*SMALLEST, "--mode=save", "--save_file=x", "--output_folder=f",
                                         check=True).stdout
    (tmp_path / "a.tflite").write_bytes(described())  # without made_by and format, as 0.1.0 described a file
    assert metadata.read(tmp_path / "a.tflite") is not None


# --- a newer version's -----------------------------------------------------------------------------------------

def newer_than_this(found, *words):
    refused(found, *words, "format 9, made by version 9.9.9; this version", "update the project")


@pytest.mark.parametrize("path, command", [
    ("checkpoints/base.t7", PRUNE), ("checkpoints/base.t7", [*TRAIN, "--resume"]), ("checkpoints/base.t7", TRAIN),
    ("checkpoints/base.t7", ["export.py", "--checkpoint=base", "--output=a.tflite"]),
    ("perf_tables/table.json", PRUNE), ("perf_tables/table.json", COMPARE),
    ("perf_tables/table.json", ["perf_tables/merge_perf_tables.py", "merged", "table", "table"])])
def test_a_newer_file_is_refused(ready, script, path, command):
    write_pair(ready / "perf_tables/table.pickle", proportional_table(TINY), {})
    edited(ready / path, newer)
    before = contents(ready)
    newer_than_this(script(*command), f"{path}: ")
    assert contents(ready) == before


def test_newer_runs_are_refused(compared, script):
    for path, command in (("history/pruned.jsonl", [*PRUNE, "--resume"]), ("checkpoints/pruned.t7", PRUNE),
                          ("comparisons/c/journal.jsonl", [*COMPARE, "--resume"]),
                          ("comparisons/c/journal.jsonl", COMPARE)):
        kept = (compared / path).read_bytes()
        edited(compared / path, newer)
        before = contents(compared)
        newer_than_this(script(*command), f"{path}: ")
        assert contents(compared) == before
        (compared / path).write_bytes(kept)
    measured = compared / "comparisons/c/measured.json"
    measured.write_text(json.dumps({"format": 9, "made_by": "9.9.9", "models": {}}))
    newer_than_this(script(*COMPARE, "--resume"), "comparisons/c/measured.json: ")


def test_newer_tables_and_models_are_refused(built, script, tmp_path):
    edited(built / "built.journal", newer)
    newer_than_this(script(*BUILD, "--resume"), "perf_tables/built.journal: ")
    newer_than_this(script(*BUILD), "perf_tables/built.journal: ")
    script(*SMALLEST, "--mode=save", "--save_file=x", "--output_folder=f", check=True)
    edited(tmp_path / "f/manifest.json", newer)
    for mode in ("save", "load"):
        newer_than_this(script(*SMALLEST, f"--mode={mode}", "--save_file=x", "--output_folder=f"), "f/manifest.json: ")
    (tmp_path / "a.tflite").write_bytes(described(format=9, made_by="9.9.9"))
    newer_than_this(script("compute_table.py", "--mode=measure", "--model=a.tflite", "--perf_table=built", *TINY_FLAGS),
                    "a.tflite: ")
