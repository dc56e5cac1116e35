"""What a network learns from: the labels, and the logits of a teacher if it has one."""

from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Teacher:
    """Knowledge distillation (Hinton et al., arXiv 1503.02531, section 2)."""

    model: nn.Module  # takes the student's images, on the same device
    temperature: float  # by which both networks' logits are divided
    weight: float  # of the teacher's part in the loss; 1 - weight is the labels'


def loss(logits: Tensor, images: Tensor, labels: Tensor, teacher: Optional[Teacher]) -> Tensor:
    """The mean loss of a batch, a scalar: cross entropy with the labels, and divergence from the teacher's outputs.

    logits: [N, classes]; images: [N, C, H, W], normalised; labels: [N]. The teacher's part is multiplied by the square
    of the temperature, so that its gradients stay as large as the labels'.
    """
    hard = F.cross_entropy(logits, labels)
    if teacher is None:
        return hard
    with torch.no_grad():
        taught = (teacher.model(images).float() / teacher.temperature).softmax(1)
    soft = F.kl_div((logits.float() / teacher.temperature).log_softmax(1), taught, reduction="batchmean")
    return (1 - teacher.weight) * hard + teacher.weight * teacher.temperature ** 2 * soft
