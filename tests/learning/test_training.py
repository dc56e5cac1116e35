"""Loops: the schedule, batches that depend on their seeds alone, and the error."""

from dataclasses import replace

import pytest
import torch

from model.torch_net import TorchNet
from tests.helpers import NETWORKS, NORMAL, labelled_images
from utils.learning import device, training
from utils.learning.device import Device
from utils.learning.settings import Recipe, Schedule


def test_multistep_and_cosine_rates():
    step = Schedule(epochs=200, lr_type="multistep", epoch_step=(60, 120, 160), decay_ratio=0.2)
    assert [step.learning_rate(0.1, e) for e in (0, 59, 60, 119, 120, 160, 199)] == pytest.approx(
        [0.1, 0.1, 0.02, 0.02, 0.004, 0.0008, 0.0008])
    cosine = replace(step, lr_type="cosine", epochs=10)
    assert [cosine.learning_rate(0.1, e) for e in (0, 5, 10)] == pytest.approx([0.1, 0.05, 0.0])


def test_an_epoch_sees_every_image_once():
    source = training.BatchSource(labelled_images(21), NORMAL, False, batch_size=5)
    batches = list(source.epoch(1, 2))
    assert [len(labels) for _, labels in batches] == [5, 5, 5, 5]  # a batch of one image is left out
    labels = torch.cat([labels for _, labels
                        in list(training.BatchSource(labelled_images(20), NORMAL, False, 5).epoch(1, 2))])
    assert torch.equal(labels.bincount(), torch.tensor([5, 5, 5, 5]))


def test_batches_depend_on_their_seeds_alone():
    source = training.BatchSource(labelled_images(20), NORMAL, True, batch_size=8)
    first = [x for x, _ in source.batches(0, 5, 3, 1)]
    torch.manual_seed(123)
    again = [x for x, _ in source.batches(0, 5, 3, 1)]
    other = [x for x, _ in source.batches(0, 5, 3, 2)]
    assert len(first) == 5 and all(len(x) == 8 for x in first)
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert not any(torch.equal(a, b) for a, b in zip(first, other))


def test_error_counts_wrong_images_over_all_batches(monkeypatch):
    monkeypatch.setattr(training, "EVAL_BATCH", 3)

    class Constant(torch.nn.Module):
        def forward(self, x):
            return torch.tensor([0.0, 0.0, 1.0, 0.0]).expand(len(x), 4)

    assert training.error_pct(Constant(), labelled_images(8), NORMAL, Device()) == 75.0


def test_training_learns_and_a_broken_loss_is_nan():
    torch.manual_seed(0)
    network = NETWORKS["depthwise"]
    model = TorchNet(network, network.full_widths)
    few = labelled_images(16)
    source = training.BatchSource(few, NORMAL, False, batch_size=16)
    optimizer = training.sgd(model, Recipe(0.05, 0.9, 0.0, 16))
    losses = [training.fit(model, optimizer, source.epoch(e), Device()) for e in range(60)]
    assert losses[-1] < 0.9 * losses[0]
    with torch.no_grad():
        model.Stem.weight.fill_(float("nan"))
    loss = training.fit(model, optimizer, source.epoch(0), Device())
    assert loss != loss


def test_settling_keeps_memory_where_the_system_has_a_way_and_else_goes_on(monkeypatch):
    calls = []
    monkeypatch.setattr(device.ctypes, "CDLL", lambda _: type("C", (),
                                                              {"mallopt": staticmethod(lambda *a: calls.append(a))}))
    threads = torch.get_num_threads()
    device.settle(Device(), threads)
    assert calls == [(-3, 32 << 20), (-1, 2 ** 31 - 1)]  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
    monkeypatch.setattr(device.ctypes, "CDLL", lambda _: object())  # a C library without mallopt
    device.settle(Device(), threads)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("name, backend, names", [
    ("cuda", "local", ["cuda:0", "cuda:1"]), ("cuda:1", "local", ["cuda:1"]), ("cuda", "ray", ["cuda"]),
    ("cpu", "local", ["cpu"])])
def test_workers_divide_the_gpus_of_a_machine_among_themselves(monkeypatch, name, backend, names):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)  # no machine with several is at hand
    assert Device(name).one_each(backend) == names


@pytest.mark.parametrize("gpus, taken", [(0, []), (1, []), (2, [0, 1, 0, 1]), (4, [0, 1, 2, 3])])
def test_of_several_gpus_each_worker_takes_its_own(monkeypatch, gpus, taken):
    found = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)  # no machine with several is at hand
    monkeypatch.setattr(torch.cuda, "set_device", found.append)
    for number in range(4):
        device.take_gpu(number)
    assert found == taken
