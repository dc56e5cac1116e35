"""Knowledge distillation: the loss is the formula, and the teacher learns nothing."""

import numpy as np
import pytest
import torch
from torch import nn

from utils.learning import distillation
from utils.learning.distillation import Teacher

IMAGES, LABELS = torch.randn(6, 3, 2, 2, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 4


def linear(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 4))


def softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize("temperature, weight", [(1.0, 0.5), (4.0, 0.9), (4.0, 0.0), (2.5, 1.0)])
def test_the_loss_is_hintons(temperature, weight):
    student, model = linear(1), linear(2)
    logits = student(IMAGES)
    found = distillation.loss(logits, IMAGES, LABELS, Teacher(model, temperature, weight))
    ours, theirs = (m(IMAGES).detach().numpy().astype(np.float64) for m in (student, model))
    hard = -np.log(softmax(ours)[np.arange(6), LABELS.numpy()]).mean()
    p, q = softmax(theirs / temperature), softmax(ours / temperature)
    soft = (p * (np.log(p) - np.log(q))).sum(1).mean()
    assert found.item() == pytest.approx((1 - weight) * hard + weight * temperature ** 2 * soft, rel=1e-5)


def test_without_a_teacher_it_is_cross_entropy():
    logits = linear(1)(IMAGES)
    assert torch.equal(distillation.loss(logits, IMAGES, LABELS, None), nn.functional.cross_entropy(logits, LABELS))


def test_a_student_that_says_what_the_teacher_says_has_nothing_to_learn_from_it():
    model = linear(1)
    loss = distillation.loss(model(IMAGES), IMAGES, LABELS, Teacher(linear(1), 4.0, 1.0))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert max(p.grad.abs().max().item() for p in model.parameters()) < 1e-6


def test_the_teacher_gets_no_gradients_and_logits_of_half_precision_are_taken():
    student, model = linear(1), linear(2)
    loss = distillation.loss(student(IMAGES).bfloat16(), IMAGES, LABELS, Teacher(model, 4.0, 0.9))
    loss.backward()
    assert all(p.grad is None for p in model.parameters()) and all(p.grad is not None for p in student.parameters())
    assert loss.isfinite()
