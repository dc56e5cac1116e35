"""Networks are judged from scratch as train.py would train them."""

import math
import re

import pytest

from model.architectures import describe
from utils.common import journal
from utils.learning import data, training
from utils.learning.device import Device, settle
from utils.learning.settings import Data, Recipe
from utils.pruning import history
from utils.pruning.candidates import Workshop
from utils.pruning.crew import Crew
from utils.pruning.scratch import Lesson, learned
from utils.pruning.trading import epochs_of, glance_of, judges_of
from utils.search import trade
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
    (352, 200, 3), (334, 200, 3), (333, 200, 4), (11, 200, 91), (11, 15, 15), (11, 1, 3), (11, 0, 91), (352, 0, 3)])
def test_an_epoch_of_few_images_counts_less(batches, most, epochs):
    assert epochs_of(batches, most) == epochs


@pytest.mark.parametrize("epochs, glance", [(1, (1, 1 / 9)), (3, (1, 1 / 3)), (8, (1, 8 / 9)), (9, (1, 1.0)),
                                            (91, (10, 1.0))])
def test_a_glance_takes_a_ninth(epochs, glance):
    assert glance_of(epochs) == glance


def test_both_judges_write_what_they_learn_and_learn_nothing_twice(workshop, tmp_path):
    networks, known = [NETWORK.full_widths, {**NETWORK.full_widths, "Conv_1_0_1": 0}], {}
    journal.begin(tmp_path / "j.jsonl", {})
    with journal.Journal(tmp_path / "j.jsonl") as log:
        whole, glance = judges_of(NETWORK, RECIPE, 3, COUNTS["params"](NETWORK), Crew(workshop), log, known)
        first, last = glance(networks), whole(networks[1:])
        assert glance(networks) == first and whole(networks[1:]) == last
    records = list(journal.read(tmp_path / "j.jsonl")[1])
    assert [(r["epochs"], r["part"]) for r in records] == [(1, 1 / 3), (1, 1 / 3), (3, 1.0)]
    assert history.losses_in(records) == known and len(known) == 3
    parameters = [NETWORK.parameter_count(w) for w in networks]
    assert first == [trade.figure(r["loss"], p, trade.FIRST_CAPACITY) for r, p in zip(records, parameters)]
    assert last == [trade.figure(records[2]["loss"], parameters[1])]


def test_the_loss_is_that_of_a_training_of_its_own(workshop, script):
    said = script("train.py", "--depth=10", "--width=0.25", "--img_size=8", "--dataset=digits", "--epochs=2",
                  "--lr_type=cosine", "--batch_size=32", "--learning_rate=0.05", "--threads=1", "--precision=fp32",
                  "--seed=3", "--save_file=net", "--workers=0", check=True).stdout
    first, last = map(float, re.findall(r"loss ([\d.]+)", said))
    assert first > last
    for epochs, loss in ((2, last), (1, first)):
        assert f"{learned(workshop, Lesson(NETWORK, NETWORK.full_widths, RECIPE, epochs)):.4f}" == f"{loss:.4f}"


def test_every_network_gets_its_own_loss_and_one_that_diverges_is_useless(workshop):
    wild = Recipe(1e9, 0.9, 5e-4, 32)
    full, without = NETWORK.full_widths, {**NETWORK.full_widths, "Conv_1_0_1": 0}
    lessons = [Lesson(NETWORK, full, RECIPE, 1), Lesson(NETWORK, without, RECIPE, 1), Lesson(NETWORK, full, wild, 2),
               Lesson(NETWORK, full, RECIPE, 1), Lesson(NETWORK, full, RECIPE, 1, 0.5)]
    found = dict(Crew(workshop).taught(lessons))
    assert found[0] == found[3] != found[1] and found[2] == math.inf and set(found) == {0, 1, 2, 3, 4}
    assert found[4] > found[0]  # half the images teach less
