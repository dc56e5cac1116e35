"""One step of SGD. On a GPU it becomes a CUDA graph after a warm-up, as launching its kernels costs more than
running them."""

import sys
from typing import Optional

import torch
from torch import Tensor, nn

from utils.common.errors import first_line
from utils.learning import distillation
from utils.learning.device import Device
from utils.learning.distillation import Teacher

WARM_UP = 3  # steps before the capture: they make what the optimizer keeps, and choose the kernels


class SgdStep:
    """A call takes a batch, [N, C, H, W] normalised images and [N] labels, updates the model and returns the loss.

    The loss is a scalar on the device; the call does not wait for it. The graph holds the learning rate and the batch
    shape, so an SgdStep is for one pass of one model. A batch of another shape runs without the graph.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, device: Device,
                 teacher: Optional[Teacher] = None):
        self._model, self._optimizer, self._device, self._teacher = model, optimizer, device, teacher
        self._warm = 0 if torch.device(device.name).type == "cuda" else None  # steps done; None: never capture
        self._graph = None

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        if self._graph is not None and images.shape == self._images.shape:
            self._images.copy_(images)
            self._labels.copy_(labels)
            self._graph.replay()
            return self._loss.clone()
        if self._warm is None:
            return self._eager(images, labels)
        side = torch.cuda.Stream(images.device)  # what is to be captured must not have run on the default stream
        side.wait_stream(torch.cuda.current_stream(images.device))
        with torch.cuda.stream(side):
            loss = self._eager(images, labels)
        torch.cuda.current_stream(images.device).wait_stream(side)
        self._warm += 1
        if self._warm == WARM_UP:
            self._capture(images, labels)
        return loss

    def _eager(self, images: Tensor, labels: Tensor) -> Tensor:
        self._optimizer.zero_grad(set_to_none=True)
        with self._device.autocast():
            loss = distillation.loss(self._model(images), images, labels, self._teacher)
        loss.backward()
        self._optimizer.step()
        return loss.detach()

    def _capture(self, images: Tensor, labels: Tensor) -> None:
        """Record a step on copies of the batch, without running it."""
        self._images, self._labels = images.clone(memory_format=torch.preserve_format), labels.clone()
        graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream(images.device)
        try:
            with torch.cuda.graph(graph, stream=torch.cuda.Stream(images.device)):
                self._loss = self._eager(self._images, self._labels)
            self._graph = graph
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            torch.cuda.set_stream(before)  # a failed capture may leave its stream as the current one
            print(f"note: no CUDA graph ({first_line(error)}); going on step by step", file=sys.stderr)
            self._warm = None
