"""Networks are judged from scratch as train.py would train them."""

import math
import re

import pytest

from model.architectures import describe
from utils.learning import data, training
from utils.learning.device import Device, settle
from utils.learning.settings import Data, Recipe
from utils.pruning.candidates import Workshop
from utils.pruning.crew import Crew
from utils.pruning.scratch import Lesson, last_loss

NETWORK = describe("res", depth=10, width=0.25, img_size=8)
RECIPE = Recipe(0.05, 0.9, 5e-4, 32)


@pytest.fixture
def workshop():
    images = data.load_images(Data("digits", "", 0), (3, 8, 8))
    held_in, held_out = data.split_holdout(images.train, 0.1)
    source = training.BatchSource(held_in, data.measure_normalisation(held_in), images.flip, 32)
    settle(Device(), 1)
    return Workshop(source, held_out, Device(), RECIPE, 1, seed=3)


def test_the_loss_is_that_of_a_training_of_its_own(workshop, script):
    said = script("train.py", "--depth=10", "--width=0.25", "--img_size=8", "--dataset=digits", "--epochs=2",
                  "--lr_type=cosine", "--batch_size=32", "--learning_rate=0.05", "--threads=1", "--precision=fp32",
                  "--seed=3", "--save_file=net", "--workers=0", check=True).stdout
    first, last = map(float, re.findall(r"loss ([\d.]+)", said))
    assert first > last
    for epochs, loss in ((2, last), (1, first)):
        found = last_loss(workshop, Lesson(NETWORK, NETWORK.full_widths, RECIPE, epochs))
        assert f"{found:.4f}" == f"{loss:.4f}"


def test_every_network_gets_its_own_loss_and_one_that_diverges_is_useless(workshop):
    wild = Recipe(1e9, 0.9, 5e-4, 32)
    lessons = [Lesson(NETWORK, NETWORK.full_widths, RECIPE, 1),
               Lesson(NETWORK, {**NETWORK.full_widths, "Conv_1_0_1": 0}, RECIPE, 1),
               Lesson(NETWORK, NETWORK.full_widths, wild, 2), Lesson(NETWORK, NETWORK.full_widths, RECIPE, 1)]
    found = dict(Crew(workshop).taught(lessons))
    assert found[0] == found[3] != found[1] and found[2] == math.inf and set(found) == {0, 1, 2, 3}
