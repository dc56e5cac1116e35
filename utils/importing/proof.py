"""The proof that a module was read in rightly, and that pruning it removes what zeroing its channels silences.

In float64, on the weights as they are and on a seeded copy whose batch norms have the statistics of 32 random images:
with arbitrary statistics the outputs of a deep network hardly depend on its input, so that a wrong network passes.
Differences are relative to how far outputs of different images are apart.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Optional

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from model import surgery
from model.network import Network
from model.surgery import Keep
from model.torch_net import TorchNet
from model.traced import Described
from model.tracing import Trace
from model.zeroing import Zeroed
from utils.common.errors import UserError, first_line
from utils.importing.weights import State, with_weights

EXACT = 1e-9  # the largest difference, of the spread
VARIES = 1e-5  # the least spread, of the outputs' size: below it, rounding in float64 hides what EXACT would show
IMAGES = 32  # for statistics
LARGE = 2.5e9  # multiply-adds for an image, from which less is tried: a pass in float64 takes half a second
MOST_MACS = 5e9  # multiply-adds for statistics, about: less than a second
SHARES = (0.3, 0.1, 0.03,
          0.0)  # of a group's channels that are pruned, at most, but at least one; the first that varies
GIVEN, SEEDED = "the given weights", "a seeded copy"


@dataclass(frozen=True)
class Proof:
    """Largest differences of outputs, relative to their spread between images. {weights: difference}, by what
    varied.
    """

    imported: dict[str, float]  # the description's outputs and the module's
    pruned: dict[str, float]  # a pruned network's outputs and those of the whole one with channels at zero

    @property
    def max_difference(self) -> float:
        return max(self.imported.values())

    @property
    def sliced_vs_zeroed(self) -> float:
        return max(self.pruned.values(), default=float("nan"))

    def lines(self) -> Iterator[str]:
        """In words, for people."""
        for words, found in (("the module's outputs, batches of 1 and 2", self.imported),
                             ("pruned = zeroed, all groups at once, with removals", self.pruned)):
            shown = ", ".join(f"{difference:.1e} on {weights}" for weights, difference in found.items())
            yield f"{words}: {shown or 'not shown'}"
        silent = [weights for weights in (GIVEN, SEEDED) if weights not in self.imported]
        if silent:
            yield (f"on {silent[0]} outputs hardly vary between images, as those of an untrained network may: nothing "
                   "is proved of them")


@torch.no_grad()
def prove(module: nn.Module, trace: Trace, described: Described, seed: int) -> Proof:
    """Prove the import of a module, whose weights change. Raises UserError, naming the first tensor that differs, if it
    is wrong, or if nothing can be proved."""
    with _Contiguous():
        return _proof(module, trace, described, seed)


def _proof(module: nn.Module, trace: Trace, described: Described, seed: int) -> Proof:
    imported, pruned = {}, {}
    thorough = described.network.multiply_adds(described.network.full_widths) < LARGE
    generator = torch.Generator().manual_seed(seed)
    for weights in (GIVEN, SEEDED):
        if weights == SEEDED:
            seed_anew(module.float(), described.network, generator)
        state = module.double().state_dict()
        images = random_images(described.network, 2, generator).double()
        sizes = (2,) if weights == GIVEN else (1,) if imported else (1, 2)
        count = 2 if thorough or not imported else 1
        difference = _imported(module, described, trace, state, images, sizes, count)
        if difference is None:
            continue
        imported[weights] = difference
        trials = (False,) if thorough else ()
        if weights == SEEDED:
            trials = (True,) if pruned or not thorough else (False, True)
        for removals in trials:
            difference = _pruned(with_weights(Zeroed, described, state), images, generator, removals=removals,
                                 count=2 if thorough else 1)
            if difference is not None:
                pruned[weights] = max(difference, pruned.get(weights, 0.0))
    if SEEDED not in imported:
        raise UserError("the import cannot be proved: even with batch-norm statistics of 32 images, outputs hardly "
                        "vary between images")
    return Proof(imported, pruned)


class _Contiguous(TorchFunctionMode):
    """Convolutions get contiguous maps: others take twice the time in float64, ten times if depthwise."""

    def __torch_function__(self, func: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        if func is torch.conv2d and given:
            given = (given[0].contiguous(), *given[1:])
        return func(*given, **(named or {}))


def random_images(network: Network, count: int, generator: torch.Generator) -> Tensor:
    """Normal noise, float32 [count, channels, height, width]."""
    entry, = network.inputs
    return torch.randn(count, network.full_widths[entry.group], *entry.sides, generator=generator)


def spread(outputs: Tensor) -> float:
    """How far the outputs of different images are apart, at most. outputs: [images, classes]."""
    return float((outputs.max(0).values - outputs.min(0).values).max())


def varies(outputs: Tensor) -> bool:
    """Whether outputs differ enough between images to show a mistake."""
    return spread(outputs) > VARIES * float(outputs.abs().max()) and bool(torch.isfinite(outputs).all())


@torch.no_grad()
def seed_anew(module: nn.Module, network: Network, generator: torch.Generator) -> None:
    """Give a module random scales, shifts and biases, filters where it has none, and batch norms the statistics of 32
    random images, so that its outputs differ from image to image."""
    for name, parameter in ((n, p) for n, p in module.named_parameters() if p.numel()):
        if parameter.numel() == max(parameter.shape, default=1):  # a number per channel
            noise = 0.3 * torch.randn(parameter.shape, generator=generator).clamp(-1.5, 1.5)
            parameter.copy_(noise if name.endswith("bias") else 1 + noise)
        elif bool((parameter[..., :2] == parameter.flatten()[0]).all() and (parameter == parameter.flatten()[0]).all()):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (2 / parameter[0].numel()) ** 0.5)
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if norms:
        _measure(module, norms, random_images(network, IMAGES, generator),
                 IMAGES * network.multiply_adds(network.full_widths))
    module.eval()


def _measure(module: nn.Module, norms: Sequence[Any], images: Tensor, macs: int) -> None:
    """Set the statistics of these batch norms to those of the images: every second pixel of them, or fourth, where the
    whole ones would take long and the module takes them."""
    for step in (4, 2, 1) if macs > 4 * MOST_MACS else (2, 1) if macs > MOST_MACS else (1,):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches
            norm.train()
        try:
            module(images[..., ::step, ::step].contiguous())
            return
        except Exception as error:  # the user's code
            if step == 1:
                raise _refused(images, error) from error


def _imported(module: nn.Module, described: Described, trace: Trace, state: State, images: Tensor,
              sizes: Sequence[int], count: int) -> Optional[float]:
    """Of the outputs for ``count`` of the images, relative to the spread of all; None if they vary too little. sizes:
    of the batches that the module gets. Raises UserError if it is too large."""
    model = with_weights(TorchNet, described, state)
    answers = [torch.cat([_run(module, batch) for batch in images.split(size)]) for size in sizes]
    expected = answers[0]
    if not varies(expected):
        return None
    found = float((model(images[:count]) - torch.stack(answers)[:, :count]).abs().max())
    if found <= EXACT * spread(expected):
        return found / spread(expected)
    at = _first_that_differs(model, described, trace, state, images)
    raise _wrong("the imported network's outputs differ from the module's", found / spread(expected), f"; {at}")


def _run(module: nn.Module, images: Tensor) -> Tensor:
    """What the user's module makes of images in float64. Raises UserError if it cannot take them."""
    try:
        found = module(images)
        if found.dtype != images.dtype:
            raise TypeError(f"its outputs are {found.dtype}")
        return found
    except Exception as error:  # the user's code
        raise _refused(images, error) from error


def _refused(images: Tensor, error: Exception) -> UserError:
    return UserError(f"it cannot take {len(images)} image{'s' * (len(images) > 1)} in float64, in which imports are "
                     f"proved ({first_line(error)[:200] or type(error).__name__}); leave types and batch sizes out of "
                     "its forward")


def _wrong(what: str, difference: float, more: str = "") -> UserError:
    return UserError(f"{what} by {difference:.2g} of their spread between images, allowed are {EXACT:g}{more}. Nothing "
                     "was written; this is a fault of the import: please report it")


class _Recorder(fx.Interpreter):
    """Runs the traced graph and keeps the tensors of some of its nodes."""

    def __init__(self, graph: fx.GraphModule, wanted: set[str]):
        super().__init__(graph)
        self.wanted, self.kept = wanted, {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self.wanted and isinstance(value, Tensor):
            self.kept[n.name] = value
        return value


def _first_that_differs(model: TorchNet, described: Described, trace: Trace, state: State, images: Tensor) -> str:
    program = trace.program
    signature = program.graph_signature
    lifted = {**signature.inputs_to_parameters, **signature.inputs_to_buffers,
              **signature.inputs_to_lifted_tensor_constants}
    known = {**program.constants, **state}
    given = [known[lifted[node.name]] if node.name in lifted else images
             for node in program.graph.nodes if node.op == "placeholder"]
    recorder = _Recorder(program.graph_module, set(described.computed.values()))
    try:
        recorder.run(*given)
    except RuntimeError as error:
        return f"the trace itself does not run in float64 ({first_line(error)[:200]}): leave types out of its forward"
    values = {i.name: x for i, x in zip(model.network.inputs, [images])}
    for number, layer in enumerate(model.layers):
        values = model.advance(values, number, number + 1)
        expected = recorder.kept.get(described.computed.get(layer.node.name, ""))
        found = values.get(layer.node.name)
        if expected is None or found is None or expected.numel() != found.numel():
            continue
        difference = float((found - expected.reshape(found.shape)).abs().max())
        if difference > EXACT * max(spread(expected.flatten(1)), VARIES):
            return f"the first tensor that differs is {layer.node.name} ({layer.node.kind} {layer.node.path})"
    return "no tensor of the trace differs: the module computes something else than its trace"


def _pruned(whole: Zeroed, images: Tensor, generator: torch.Generator, *, removals: bool,
            count: int) -> Optional[float]:
    """Of a pruned network's outputs for ``count`` of the images and those of the whole one with channels at zero,
    relative to their spread; None if they vary too little. Raises UserError if it is too large."""
    for share in SHARES:
        keep = random_channels(whole.network, share, generator, removals=removals)
        expected = whole.without(keep)(images)
        if varies(expected):
            outputs = _narrow(whole, keep)(images[:count])
            found = float((outputs - expected[:count]).abs().max()) / spread(expected)
            if not found <= EXACT:
                raise _wrong("a pruned network differs from the whole one with channels at zero", found)
            return found
    return None


def _narrow(whole: TorchNet, keep: Keep) -> TorchNet:
    """What surgery.slice_channels gives, without first initialising it."""
    with torch.device("meta"):
        narrow = TorchNet(whole.network, {**whole.widths, **{group: len(index) for group, index in keep.items()}})
    narrow.load_state_dict(surgery.sliced(narrow, whole.state_dict(), keep, whole.widths), assign=True)
    return narrow.eval()


def random_channels(network: Network, share: float, generator: torch.Generator, *, removals: bool) -> Keep:
    """Channels that stay, of every prunable group: all but up to this share, and but for one at least; with
    ``removals`` some groups have none left."""
    keep: dict[str, Tensor] = {}
    for group in network.groups:
        if not group.prunable:
            continue
        gone = max(1, int(share * group.width * torch.rand((), generator=generator)))
        keep[group.name] = torch.randperm(group.width, generator=generator)[:max(1, group.width - gone)].sort().values
        if removals and group.removable and torch.rand((), generator=generator) < 0.3:
            widths = {**network.full_widths, **{name: len(index) for name, index in keep.items()}, group.name: 0}
            if network.lives(widths):
                keep[group.name] = torch.zeros(0, dtype=torch.long)
    return keep
