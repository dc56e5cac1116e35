"""A candidate is the same whoever makes it: alone or with others, at once or rung by rung, here or by a worker."""

import copy

import pytest
import torch

from model import surgery
from model.torch_net import TorchNet
from tests.helpers import NORMAL, TORCH_NETWORKS, labelled_images
from utils.common.workers import Workers
from utils.learning import training
from utils.learning.device import Device
from utils.learning.settings import Recipe
from utils.pruning import candidates
from utils.pruning.candidates import Order, Piece, Workshop
from utils.pruning.crew import Crew
from utils.pruning.scores import filter_norms
from utils.pruning.store import CandidateStore
from utils.search import halving
from utils.search.halving import Rung

SCORE, SHORT, FULL = Rung("score", 0, 20, 3), Rung("short", 2, 20, 3), Rung("full", 5, None, 3)
GLANCE = Rung("score", 0, 20, own=20)  # of the quick search, and what follows it
FROZEN = tuple(Rung(rung.name, rung.batches, rung.images, own=20, frozen=True) for rung in (SHORT, FULL))


def workshop_and_parent(name, precision="fp32"):
    torch.manual_seed(0)
    network = TORCH_NETWORKS[name]
    sides, classes = network.inputs[0].sides, network.layers(network.full_widths)[-1].cout
    source = training.BatchSource(labelled_images(96, classes, sides), NORMAL, True, 16)
    workshop = Workshop(source, labelled_images(50, classes, sides), Device("cpu", precision),
                        Recipe(0.05, 0.9, 5e-4, 16), threads=1, seed=3)
    parent = workshop.device.place(TorchNet(network, network.full_widths))
    training.fit(parent, training.sgd(parent, Recipe(0.05, 0.9, 0, 16)), source.batches(0, 5, 9),
                 Device("cpu", "fp32"))  # in bf16, a depthwise gradient is NaN once in some hundred runs on a new Xeon
    return workshop, parent


def pieces(parent):
    """One candidate for every prunable group, and the removal of every removable one."""
    found = []
    for number, group in enumerate(parent.network.groups, 1):
        if group.prunable:
            scores = filter_norms(parent, group.name)
            widths = {0, group.width // 2} if group.removable else {group.width // 2}
            found += [Piece(group.name, number, surgery.best_channels(scores, w)) for w in sorted(widths)]
    return tuple(found)


def same_states(a, b):
    assert a.keys() == b.keys() and a["batches"] == b["batches"]
    assert a["model"].keys() == b["model"].keys()
    for name in a["model"]:
        assert torch.equal(a["model"][name], b["model"][name]), name


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", TORCH_NETWORKS)
@pytest.mark.parametrize("score", [SCORE, GLANCE], ids=["anew", "own"])
def test_scoring_on_shared_layers_is_scoring_alone(name, precision, score):
    workshop, parent = workshop_and_parent(name, precision)
    before = copy.deepcopy(parent.state_dict())
    several = pieces(parent)
    together = list(candidates.make_candidates(workshop, parent, Order(2, score, several)))
    assert len(together) == len(several)
    for made, piece in zip(together, candidates.in_order(parent, several)):
        (alone,) = candidates.make_candidates(workshop, parent, Order(2, score, (piece,)))
        assert made.key == alone.key == piece.key and made.error_pct == alone.error_pct
        same_states(made.progress, alone.progress)
    assert all(torch.equal(v, before[k]) for k, v in parent.state_dict().items()), "the parent was changed"


@pytest.mark.parametrize("name", TORCH_NETWORKS)
def test_scoring_measures_the_statistics_of_the_pruned_network(name):
    """Against torch's own batch norm, run over the same batches by the whole pruned network."""
    workshop, parent = workshop_and_parent(name)
    for piece in pieces(parent):
        (made,) = candidates.make_candidates(workshop, parent, Order(2, SCORE, (piece,)))
        expected = surgery.slice_channels(parent, {piece.group: piece.keep}).train()
        for module in expected.modules():
            if isinstance(module, torch.nn.Dropout):
                module.eval()
            if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
                module.reset_running_stats()
                module.momentum = None
        with torch.no_grad():
            for x in workshop.recalibrating(2, 3):
                expected(x)
        for key, value in expected.named_buffers():
            torch.testing.assert_close(made.progress["model"][key], value, rtol=1e-3, atol=1e-4)
        assert made.error_pct == training.error_pct(expected, workshop.judged(2, 20), NORMAL, workshop.device)


@pytest.mark.parametrize("name", TORCH_NETWORKS)
def test_with_their_own_statistics_images_are_judged_as_torch_trains_on_them(name):
    workshop, parent = workshop_and_parent(name)
    images = workshop.judged(2, 20)
    for piece in pieces(parent):
        (made,) = candidates.make_candidates(workshop, parent, Order(2, GLANCE, (piece,)))
        model = surgery.slice_channels(parent, {piece.group: piece.keep}).train()
        training.without_dropout(model)
        for module in model.modules():
            if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
                training.measure_anew(module)
        with torch.no_grad():
            logits = model(NORMAL(images.pixels))
        wrong = int((logits.argmax(1) != images.labels).sum())
        assert made.error_pct == 100 * wrong / 20
        measured = dict(model.named_buffers())
        for key, value in made.progress["model"].items():
            torch.testing.assert_close(value, measured[key], rtol=1e-2, atol=1e-3)
        late = model.layers[candidates._first_change(parent, piece):]
        assert len(made.progress["model"]) == sum(len(list(norm.buffers())) for layer in late
                                                  for norm in model.batch_norms(layer))
        assert made.loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, images.labels)), rel=0.01)


@pytest.mark.parametrize("name", TORCH_NETWORKS)
def test_the_layers_before_the_first_pruned_one_stay_as_they_are(name):
    """To the bit, with their statistics; a layer behind them learns as if nothing stood still."""
    workshop, parent = workshop_and_parent(name)
    before = parent.state_dict()
    for piece in pieces(parent)[1:]:
        first = candidates._first_change(parent, piece)
        (made,) = candidates.make_candidates(workshop, parent, Order(2, FROZEN[1], (piece,)))
        (free,) = candidates.make_candidates(workshop, parent, Order(2, FULL, (piece,)))
        early = {m for layer in parent.layers[:first] for m in parent.modules_of(layer)}
        names = {f"{path}.{key}" for path, module in parent.named_modules() if module in early
                 for key in module.state_dict()}
        assert names and all(torch.equal(made.progress["model"][key], before[key]) for key in names)
        assert first == 0 or any(not torch.equal(free.progress["model"][key], before[key]) for key in names)
        last = [key for key in before if key.endswith("weight")][-1]
        assert not torch.equal(made.progress["model"][last], before[last])


@pytest.mark.parametrize("name", TORCH_NETWORKS)
@pytest.mark.parametrize("rungs", [(SCORE, SHORT, FULL), (GLANCE, *FROZEN)], ids=["halving", "quick"])
def test_rung_by_rung_is_in_one_go(name, rungs):
    workshop, parent = workshop_and_parent(name)
    for piece in pieces(parent)[:3]:
        at, climbed = piece, None
        for rung in rungs:
            (climbed,) = candidates.make_candidates(workshop, parent, Order(2, rung, (at,)))
            at = Piece(piece.group, piece.number, piece.keep, climbed.progress)
        (at_once,) = candidates.make_candidates(workshop, parent, Order(2, rungs[-1], (piece,)))
        assert climbed.error_pct == at_once.error_pct
        same_states(climbed.progress, at_once.progress)


def test_the_full_way_measures_nothing_anew():
    workshop, parent = workshop_and_parent("depthwise")
    piece = pieces(parent)[0]
    (rung,) = halving.ladder("full", 0)
    (made,) = candidates.make_candidates(workshop, parent, Order(1, rung, (piece,)))
    plain = surgery.slice_channels(parent, {piece.group: piece.keep})
    assert all(torch.equal(made.progress["model"][k], v) for k, v in plain.state_dict().items())
    assert made.error_pct == training.error_pct(plain, workshop.held_out, NORMAL, workshop.device)


def test_the_judged_images_are_of_all_classes_and_a_steps_own():
    workshop, _ = workshop_and_parent("depthwise")
    few = workshop.judged(1, 30)
    assert len(few) == 30 and len(few.labels.unique()) == 4
    assert torch.equal(few.pixels, workshop.judged(1, 30).pixels)
    assert not torch.equal(few.pixels, workshop.judged(2, 30).pixels)
    assert workshop.judged(1, 50) is workshop.judged(1, None) is workshop.held_out


def test_a_sample_is_in_batches_of_about_the_same_size(monkeypatch):
    """Of images in the order of their classes, as folders have them, and where the last batch would have one image."""
    workshop, _ = workshop_and_parent("depthwise")
    monkeypatch.setattr(training, "EVAL_BATCH", 49)
    batches = workshop.sample(1, 1000)
    assert [len(batch) for batch in batches] == [25, 25]
    order = [pixels.tolist() for batch in batches for pixels in batch.pixels]
    assert sorted(order) == sorted(workshop.held_out.pixels.tolist()) and order != workshop.held_out.pixels.tolist()
    (few,) = workshop.sample(1, 20)
    assert torch.equal(few.pixels, workshop.judged(1, 20).pixels)


def test_the_parent_is_judged_as_its_candidates_are():
    workshop, parent = workshop_and_parent("res-10-1")
    plain = workshop.judge(parent, workshop.judged(2, 20))
    assert candidates.judge_parent(workshop, parent, 2, SCORE) == plain
    before = copy.deepcopy(parent.state_dict())
    own = candidates.judge_parent(workshop, parent, 2, GLANCE)
    assert all(torch.equal(v, before[k]) for k, v in parent.state_dict().items())
    model = copy.deepcopy(parent).train()
    with torch.no_grad():
        logits = model(NORMAL(workshop.judged(2, 20).pixels))
    expected = float(torch.nn.functional.cross_entropy(logits, workshop.judged(2, 20).labels))
    assert own[1] == pytest.approx(expected, rel=1e-3) and own[1] != pytest.approx(plain[1], rel=1e-3)


def test_workers_make_the_same(tmp_path):
    workshop, parent = workshop_and_parent("depthwise")
    several = pieces(parent)
    torch.set_num_threads(1)

    def all_made(make):
        return {(rung.name, m.key): m for rung in (SCORE, SHORT) for m in make(1, rung, several)}  # in any order

    here = all_made(Crew(workshop).of_step(parent))
    with Workers(2) as workers:
        there = all_made(Crew(workshop, workers).of_step(parent))
    assert here.keys() == there.keys() and len(here) == 2 * len({piece.key for piece in several}) > 3
    for key, made in here.items():
        assert made.error_pct == there[key].error_pct and made.key == there[key].key
        same_states(made.progress, there[key].progress)


def test_a_broken_loss_is_nan():
    workshop, parent = workshop_and_parent("depthwise")
    with torch.no_grad():
        parent.Stem.weight.fill_(float("nan"))
    piece = pieces(parent)[2]
    for rung in (SHORT, FULL):
        (made,) = candidates.make_candidates(workshop, parent, Order(1, rung, (piece,)))
        assert made.error_pct != made.error_pct


@pytest.mark.parametrize("name", ["res-16-0.5", "depthwise"])
def test_bf16_is_fp32_within_tolerance(name):
    """Logits within 3% of their spread, loss within 2%; the same number of errors within 2 images of 50."""
    workshop, parent = workshop_and_parent(name)
    half = Device("cpu", "bf16")
    x = NORMAL(workshop.held_out.pixels)
    parent.eval()
    with torch.inference_mode():
        exact = parent(x)
        with half.autocast():
            close = parent(x).float()
    assert (close - exact).abs().mean() < 0.03 * exact.std()
    losses = []
    for device in (workshop.device, half):
        model = copy.deepcopy(parent)
        optimizer = training.sgd(model, Recipe(0.05, 0.9, 0, 16))
        losses.append(training.fit(model, optimizer, workshop.source.batches(0, 6, 1), device))
        losses.append(training.error_pct(model, workshop.held_out, NORMAL, device))
    assert losses[2] == pytest.approx(losses[0], rel=0.02)
    assert abs(losses[3] - losses[1]) <= 4.0
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_what_a_glance_measured_is_kept_and_gone_on_with(tmp_path):
    """The statistics of the layers from the changed one on; those of a layer of another shape are not taken."""
    workshop, parent = workshop_and_parent("res-10-1")
    for piece in [p for p in pieces(parent) if len(p.keep)]:
        (made,) = candidates.make_candidates(workshop, parent, Order(1, GLANCE, (piece,)))
        store = CandidateStore(tmp_path, parent.network)
        store.keep(1, piece.key, made.progress)
        widths = {**parent.widths, piece.group: len(piece.keep)}
        kept = store.progress(piece.key, parent.network.weight_shapes(widths), 2)
        assert kept is not None
        same_states(kept, made.progress)
        other = {**widths, piece.group: len(piece.keep) + 1}
        assert store.progress(piece.key, parent.network.weight_shapes(other), 2) is None
