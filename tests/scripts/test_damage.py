"""Damage is noticed, what is finished stays, and only a run's own files are removed."""

import random

import pytest
import torch

from tests.helpers import PRUNE, TINY, TRAIN, contents, records_in, refused
from utils.common.checksum import sha256_of_content
from utils.common.errors import UserError
from utils.common.lock import locked
from utils.learning import checkpoint, training
from utils.pruning import history
from utils.pruning.store import CandidateStore, remove_candidates

UNFINISHED = [*TRAIN[:-2], "--epochs=3", "--save_file=base"]


def flipped(path, tries, seed=0):
    """Write the file again and again, each time with another bit flipped; it ends as it was."""
    whole, draw = path.read_bytes(), random.Random(seed)
    for _ in range(tries):
        hurt = bytearray(whole)
        bit = draw.randrange(8 * len(whole))
        hurt[bit // 8] ^= 1 << bit % 8
        path.write_bytes(hurt)
        yield bit
    path.write_bytes(whole)


def test_a_flipped_bit_in_a_checkpoint_is_seen_or_changes_nothing(ready):
    path, seen = ready / "checkpoints/base.t7", 0
    content = checkpoint.load(path)
    checkpoint.save(path, checkpoint.build(content, path), checkpoint.normalisation_of(content), **{
        k: v for k, v in content.items() if k not in ("arguments", "widths", "state_dict", "normalisation", "format",
                                                      "made_by")}, optimizer={"state": {0: torch.arange(2000.0)}})
    expected = sha256_of_content(checkpoint.load(path))
    for bit in flipped(path, 300):
        try:
            assert sha256_of_content(checkpoint.load(path)) == expected, bit
        except UserError:
            seen += 1
    assert seen > 200


def test_a_flipped_bit_in_a_candidates_state_costs_the_candidate(tmp_path):
    store, key = CandidateStore(tmp_path / "c", TINY), ("Conv_0", 8)
    state = {"batches": 3, "model": {"w": torch.arange(500.0)}}
    store.keep(1, key, state)
    (path,) = (tmp_path / "c").iterdir()
    kept = 0
    for bit in flipped(path, 200):
        again = CandidateStore(tmp_path / "c", TINY)
        again.read(1)
        if again.keys:
            kept += 1
            found = again.progress(key, {"w": (500,)}, 10)
            assert found is not None and sha256_of_content(found) == sha256_of_content(state), bit
    assert kept < 100


def test_a_changed_history_is_seen(tmp_path):
    path = tmp_path / "h.jsonl"
    path.write_text(history.written([{"event": "start", "format": 1, "x": 1.5}, {"event": "step", "step": 1},
                                     {"event": "end"}]))
    assert history.header_of(path)["x"] == 1.5 and "sha256" in records_in(path)[-1]
    path.write_text(path.read_text().replace('"step": 1', '"step": 2'))
    with pytest.raises(UserError, match="h.jsonl: damaged or edited"):
        history.header_of(path)
    assert history.header_of(tmp_path / "none") == {}


def test_a_training_that_diverges_leaves_the_finished_checkpoint(ready, script):
    before = contents(ready)
    refused(script(*TRAIN, "--learning_rate=1e6"), "epoch 1: the loss is no longer a number; try a lower")
    assert contents(ready) == before


def test_weights_that_are_no_numbers_are_not_written(ready, script, monkeypatch):
    """The loss of the last batch was one, and its step made them so."""
    before, epoch = contents(ready), training.train_epoch

    def diverging(model, *rest):
        loss = epoch(model, *rest)
        next(model.parameters()).data[0] = torch.inf
        return loss

    monkeypatch.setattr(training, "train_epoch", diverging)
    refused(script(*TRAIN), "checkpoints/base.t7: the training diverged in epoch 1", "lower --learning_rate than 0.1")
    assert contents(ready) == before


def stopped_in_epoch(number, script, monkeypatch, *flags):
    """Run, with a Ctrl-C in this epoch."""
    epoch = training.train_epoch

    def stopped(model, optimizer, source, device, rate, of, *rest):
        if of[1] == number:
            raise KeyboardInterrupt
        return epoch(model, optimizer, source, device, rate, of, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(training, "train_epoch", stopped)
        assert script(*flags).returncode == 130


def test_a_finished_checkpoint_stays_until_its_replacement_is_finished(ready, script, monkeypatch):
    path, unfinished = ready / "checkpoints/base.t7", ready / "checkpoints/base.unfinished.t7"
    finished = path.read_bytes()
    stopped_in_epoch(1, script, monkeypatch, *UNFINISHED)
    assert path.read_bytes() == finished and unfinished.exists()
    refused(script(*UNFINISHED), "checkpoints/base.unfinished.t7: an unfinished training (1 of 3 epochs); add --resume")
    refused(script(*PRUNE[:1], "--base_model=base", "--perf_table=table", "--pruning_fact=0.3", "--save_file=base"),
            "would overwrite the base model")
    script(*UNFINISHED, "--resume", check=True)
    assert checkpoint.load(path)["epoch"] == 3 and not unfinished.exists()


def test_prune_leaves_the_unfinished_training_of_its_name(ready, script, monkeypatch):
    stopped_in_epoch(1, script, monkeypatch, *TRAIN[:-2], "--epochs=3", "--save_file=pruned")
    before = contents(ready)
    refused(script(*PRUNE), "checkpoints/pruned.unfinished.t7: an unfinished training; go on with train.py --resume")
    assert contents(ready) == before


@pytest.mark.parametrize("command", [TRAIN[:-2] + ["--epochs=1", "--save_file=pruned"], PRUNE], ids=["train", "prune"])
def test_scripts_of_one_name_exclude_each_other(ready, script, command):
    with locked(ready / "checkpoints/pruned.t7"):
        refused(script(*command), "checkpoints/pruned.t7: another process is writing it")


def test_the_candidates_folder_of_somebody_else_stays(ready, script, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "1-2.t7").write_text("my own")
    folder = ready / "checkpoints/pruned.candidates"
    folder.symlink_to(mine)
    refused(script(*PRUNE), "checkpoints/pruned.candidates: a link, expected a folder")
    remove_candidates(folder)
    assert (mine / "1-2.t7").read_text() == "my own"
    folder.unlink()
    folder.mkdir()
    (folder / "notes.txt").write_text("my own")
    script(*PRUNE, check=True)
    assert [p.name for p in folder.iterdir()] == ["notes.txt"]
