"""Networks are judged from scratch as train.py would train them."""

import math
import re
from dataclasses import replace

import pytest

from model.architectures import describe
from utils.common import journal
from utils.learning import data, training
from utils.learning.device import Device, settle
from utils.learning.settings import Data, Recipe
from utils.pruning.candidates import Workshop
from utils.pruning.crew import Crew
from utils.pruning.scratch import Lesson, learned
from utils.pruning.trading import epochs_of, judges_of
from utils.search.costs import COUNTS

NETWORK = describe("res", depth=10, width=0.25, img_size=8)
RECIPE = Recipe(0.05, 0.9, 5e-4, 32)


@pytest.fixture
def workshop():
    images = data.load_images(Data("digits", "", 0), (3, 8, 8))
    held_in, held_out = data.split_holdout(images.train, 0.1)
    source = training.BatchSource(held_in, data.measure_normalisation(held_in), images.flip, 32)
    settle(Device(), 1)
    return Workshop(source, held_out, Device(), RECIPE, 1, seed=3)


@pytest.mark.parametrize("batches, most, epochs", [
    (352, 200, 3), (334, 200, 3), (333, 200, 4), (11, 200, 91), (11, 15, 15), (11, 1, 3), (11, 0, 3)])
def test_an_epoch_of_few_images_counts_less(batches, most, epochs):
    assert epochs_of(batches, most) == epochs


def test_the_first_glance_takes_a_third_of_the_epochs(workshop, tmp_path):
    networks = [NETWORK.full_widths, {**NETWORK.full_widths, "Conv_1_0_1": 0}]
    for epochs, first in ((7, 2), (2, 1), (1, None)):
        path, known = tmp_path / f"{epochs}.jsonl", {}
        journal.begin(path, {})
        with journal.Journal(path) as log:
            whole, glance = judges_of(NETWORK, RECIPE, epochs, COUNTS["params"](NETWORK), Crew(workshop), log, known)
            figures = [list(judge(networks)) for judge in (glance, whole) if judge]
        assert len(figures) == 1 + bool(first) and all(len(f) == 2 and max(f) < math.inf for f in figures)
        assert {until for _, until in known} == {epochs, first or epochs}
        assert [r["epochs"] for r in journal.read(path)[1]] == [e for e in (first, epochs) if e for _ in networks]


def test_the_loss_is_that_of_a_training_of_its_own(workshop, script):
    said = script("train.py", "--depth=10", "--width=0.25", "--img_size=8", "--dataset=digits", "--epochs=2",
                  "--lr_type=cosine", "--batch_size=32", "--learning_rate=0.05", "--threads=1", "--precision=fp32",
                  "--seed=3", "--save_file=net", "--workers=0", check=True).stdout
    first, last = map(float, re.findall(r"loss ([\d.]+)", said))
    assert first > last
    for epochs, loss in ((2, last), (1, first)):
        found = learned(workshop, Lesson(NETWORK, NETWORK.full_widths, RECIPE, epochs, until=epochs))
        assert f"{found.loss:.4f}" == f"{loss:.4f}" and found.progress is None


def test_every_network_gets_its_own_loss_and_one_that_diverges_is_useless(workshop):
    wild = Recipe(1e9, 0.9, 5e-4, 32)
    full, without = NETWORK.full_widths, {**NETWORK.full_widths, "Conv_1_0_1": 0}
    lessons = [Lesson(NETWORK, full, RECIPE, 1, 1), Lesson(NETWORK, without, RECIPE, 1, 1),
               Lesson(NETWORK, full, wild, 3, 2), Lesson(NETWORK, full, RECIPE, 1, 1)]
    found = {number: end.loss for number, end in Crew(workshop).taught(lessons) if end.progress is None}
    assert found[0] == found[3] != found[1] and found[2] == math.inf and set(found) == {0, 1, 2, 3}


def test_a_lesson_that_goes_on_ends_as_one_in_one_go(workshop):
    whole = Lesson(NETWORK, NETWORK.full_widths, RECIPE, epochs=3, until=3)
    first = learned(workshop, replace(whole, until=1))
    assert first.progress and len(first.progress["losses"]) == 1
    assert learned(workshop, replace(whole, progress=first.progress)) == learned(workshop, whole)
    assert first.loss > learned(workshop, whole).loss
