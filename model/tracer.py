"""A walk through a traced graph, which makes steps of its calls.

Whatever only hands values on (view, permute, chunk, cat, slice, flatten ...) is run on integer tensors, in which every
element has a number. So no such function needs a rule of its own: a tensor that a convolution reads is the *selection*
of channels that its numbers say. What the steps cannot express raises Refused, naming the layer.
"""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Callable, NoReturn, Optional

import torch
from torch import Tensor, fx, nn

from model.operators import Sides

APART = 1 << 40  # of the numbers of elements of two images
BATCH = 2  # images of the example: a batch of one hides what mixes images

# Functions that only hand elements on.
HANDED_ON = frozenset((
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "permute", "transpose", "movedim", "unsqueeze",
    "squeeze", "swapaxes", "swapdims", "repeat", "tile",
    "chunk", "split", "split_with_sizes", "tensor_split", "slice", "narrow", "select", "unbind", "contiguous", "clone",
    "alias", "detach", "lift_fresh_copy", "channel_shuffle", "native_channel_shuffle", "pixel_shuffle",
    "pixel_unshuffle",
    "to", "_to_copy", "type_as", "expand", "expand_as", "stack", "flip", "roll", "index_select", "t"))

# Those that also keep the order of a parameter's elements.
KEEP_ORDER = frozenset(("view", "reshape", "_unsafe_view", "flatten", "unflatten", "unsqueeze", "squeeze", "contiguous",
                        "clone", "alias", "detach", "lift_fresh_copy", "to", "_to_copy"))

MADE = "a tensor of numbers made within its forward; make it a buffer or a parameter"

REASONS = {
    **dict.fromkeys(("ones", "ones_like", "full", "full_like", "arange", "linspace", "eye", "scalar_tensor"), MADE),
    **dict.fromkeys(("rand", "randn", "rand_like", "randn_like", "bernoulli"), "it draws random numbers"),
    **dict.fromkeys(("interpolate", "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d"),
                    "an enlargement of maps has no counterpart here"),
    "scaled_dot_product_attention": "attention has no counterpart here",
    "softmax": "a softmax has no counterpart here (a network returns its logits)",
    "log_softmax": "a softmax has no counterpart here (a network returns its logits)",
    "matmul": "a product of matrices, as in attention, has no counterpart here",
    "bmm": "a product of matrices, as in attention, has no counterpart here",
    "einsum": "a product of matrices, as in attention, has no counterpart here",
    "group_norm": "a group norm, which depends on other channels of an image, has no counterpart here",
    "instance_norm": "an instance norm has no counterpart here",
    "conv_transpose2d": "a transposed convolution has no counterpart here",
    "conv1d": "a convolution over one axis has no counterpart here",
    "conv3d": "a convolution over three axes has no counterpart here"}


class Refused(ValueError):
    """A module that cannot be imported; says which layer, where, and why."""


@dataclass(frozen=True)
class Step:
    """One operator of the user's network.

    kind: of operators.py, or "select": channels of its inputs in any order, picks: [(number of the input, channel)].
    """

    name: str  # of the traced graph, unique
    kind: str
    inputs: tuple[str, ...]
    channels: int
    sides: Sides
    flat: bool
    fields: dict[str, Any] = field(default_factory=dict)  # of a Node
    parameters: dict[str, str] = field(default_factory=dict)  # {the operator's name of it: the user's}
    place: str = ""  # path of the module that computes it, and its class
    picks: tuple[tuple[int, int], ...] = ()

    @property
    def pixels(self) -> int:
        return prod(self.sides)


@dataclass(frozen=True)
class View:
    """A tensor of the graph: a step's output as it is, or its elements, and others', in another order.

    shape: with the batch; numbers: of elements, int64 [*shape], APART for the next image; None: those of ``step``.
    """

    shape: tuple[int, ...]
    step: Optional[str] = None
    numbers: Optional[Tensor] = None


@dataclass(frozen=True)
class Pending:
    """A part of a hard sigmoid, relu6(x + 3) / 6, or of a hard swish, x * relu6(x + 3) / 6, that is written out."""

    x: View
    part: str  # "x + 3", "relu6(x + 3)" or "x * relu6(x + 3)"

Value = Any  # a View, a Parameter, Zeros, a list of them, a number or None


@dataclass(frozen=True)
class Parameter:
    name: str  # in the state dict of the user's module
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Zeros:
    shape: tuple[int, ...]  # with the batch


Bound = dict[str, Any]  # arguments of a call by name, values where the graph had nodes
Function = Callable[["Tracer", Bound], Value]


class Tracer:
    """Walks through the traced graph, and collects steps. functions: {name: what makes steps of a call of it}."""

    def __init__(self, program: torch.export.ExportedProgram, module: nn.Module, functions: Mapping[str, Function]):
        self.module, self.functions = module, functions
        self.graph, self.signature, self.constants = program.graph, program.graph_signature, program.constants
        self.found: list[Step] = []
        self.by_name: dict[str, Step] = {}
        self.first: dict[str, int] = {}  # number of a step's first element
        self.total = 0
        self.values: dict[str, Value] = {}
        self.selected: dict[Any, str] = {}  # selections that there are already
        self.node: Any = None

    def steps(self) -> list[Step]:
        state = {**self.signature.inputs_to_parameters, **self.signature.inputs_to_buffers,
                 **self.signature.inputs_to_lifted_tensor_constants}
        for node in self.graph.nodes:
            self.node = node
            if node.op == "placeholder":
                shape = [int(n) for n in getattr(node.meta.get("val"), "shape", ())]
                self.values[node.name] = (Parameter(state[node.name], tuple(shape)) if node.name in state
                                          else self.new("image", (), shape[1], shape[2:], name="image"))
            elif node.op == "get_attr":
                self.refuse("torch.no_grad or autocast within its forward; use them around it")
            elif node.op == "call_function":
                self.values[node.name] = self.call(node)
            elif node.op == "output":
                result = self.values[node.args[0][0].name]
                self.node = node.args[0][0]
                self.output(self.read(result))
        return self.found

    # --- steps and views -----------------------------------------------------------------------------------

    def new(self, kind: str, inputs: Sequence[str], channels: int, sides: Sequence[int] = (1, 1), *, flat: bool = False,
            name: str = "", parameters: Optional[dict[str, Value]] = None, picks: Sequence[tuple[int, int]] = (),
            **fields: Any) -> View:
        """A new step; parameters: {the operator's name: of the user's module, or None}."""
        named = {}
        for key, value in (parameters or {}).items():
            if isinstance(value, Parameter):
                named[key] = value.name
            elif value is not None:
                self.refuse(f"its {key} is computed anew in every pass (weights that are normalised or made on the "
                            "fly)")
        step = Step(name or (self.node.name if self.node.name not in self.by_name
                             else f"{self.node.name}_{len(self.found)}"),
                    kind, tuple(inputs), channels, (sides[0], sides[1]), flat, fields, named, self.place(),
                    tuple(picks))
        self.found.append(step)
        self.by_name[step.name] = step
        self.first[step.name], self.total = self.total, self.total + channels * step.pixels
        return View((BATCH, channels) if flat else (BATCH, channels, *step.sides), step.name)

    def before(self, what: str) -> str:
        """A name for what is made of the inputs of the node at hand, which keeps its own; a concat is what it makes."""
        joins = self.node.target == torch.ops.aten.cat.default
        name = self.node.name if joins else f"{self.node.name}_{what}"
        return name if name not in self.by_name else f"{name}_{len(self.found)}"

    def place(self) -> str:
        stack = list((self.node.meta.get("nn_module_stack") or {}).values())
        if not stack or self.node.op == "placeholder":
            return ""
        path, kind = stack[-1]
        return f"{path or 'the module itself'} ({str(kind).rpartition('.')[2]})"

    def refuse(self, reason: str) -> NoReturn:
        place = self.place()
        raise Refused(f"{self.node.name}{f' in {place}' if place else ''}: {reason}")

    def numbers(self, view: View) -> Tensor:
        """The numbers of a view's elements, [*shape]."""
        if view.numbers is not None:
            return view.numbers
        step = self.by_name[view.step or ""]
        count = step.channels * step.pixels
        one = torch.arange(count).view(1, *view.shape[1:]) + self.first[step.name]
        return torch.cat([one + image * APART for image in range(BATCH)])

    def rearranged(self, function: Callable[..., Any], given: Any, named: Any) -> Value:
        """What a function that only hands elements on makes of views."""
        def number(value: Any) -> Any:
            if isinstance(value, (Parameter, Pending, Zeros)):
                return self.refuse("it hands parameters or zeros and maps on together")
            if isinstance(value, View):
                return self.numbers(value)
            if isinstance(value, (list, tuple)):
                return [number(v) for v in value]
            return value

        result = function(*[number(a) for a in given], **{k: number(v) for k, v in named.items()})

        def view(found: Tensor) -> View:
            step = self.owner(found)
            if step and step.channels * step.pixels * BATCH == found.numel():
                whole = View((BATCH, step.channels) if step.flat else (BATCH, step.channels, *step.sides), step.name)
                if whole.shape == tuple(found.shape) and torch.equal(found, self.numbers(whole)):
                    return whole
            return View(tuple(found.shape), None, found)

        return [view(t) for t in result] if isinstance(result, (list, tuple)) else view(result)

    def owner(self, numbers: Tensor) -> Optional[Step]:
        """The step that the first of these elements is of."""
        if not numbers.numel():
            return None
        firsts = torch.tensor([self.first[s.name] for s in self.found])
        return self.found[int(torch.searchsorted(firsts, numbers.flatten()[0] % APART, right=True)) - 1]

    def read(self, value: Value) -> str:
        """The step whose output this is, made if need be: [N, channels, height, width], or [N, channels]."""
        if isinstance(value, Pending):
            return self.refuse(f"{value.part} alone: an addition of a constant")
        if not isinstance(value, View):
            return self.refuse("it computes with what is no tensor of images")
        if value.step is not None:
            return value.step
        assert value.numbers is not None
        if len(value.shape) not in (2, 4) or value.shape[0] != BATCH:
            self.refuse(f"a tensor of shape {list(value.shape)} is no batch of maps or vectors")
        if not torch.equal(value.numbers[0], value.numbers[1] - APART):
            self.refuse("it mixes images of a batch")
        numbers = value.numbers[0]
        key = (value.shape, numbers.numpy().tobytes())
        if key not in self.selected:
            self.selected[key] = self._select(numbers) if numbers.dim() == 3 else self._flatten(numbers)
        return self.selected[key]

    def _sources(self, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor, list[str]]:
        """Of elements: (number of the source, channel, pixel), and the sources in order of appearance."""
        firsts = torch.tensor([self.first[s.name] for s in self.found])
        which = torch.searchsorted(firsts, numbers.contiguous(), right=True) - 1
        pixels = torch.tensor([s.pixels for s in self.found])[which]
        inside = numbers - firsts[which]
        appear = list(dict.fromkeys(which.flatten().tolist()))
        return which, inside // pixels, inside % pixels, [self.found[i].name for i in appear]

    def _select(self, numbers: Tensor) -> str:
        """Channels of maps, [channels, height, width]; every stride-th pixel of them."""
        which, channel, pixel, sources = self._sources(numbers)
        height, width = numbers.shape[1:]
        at = pixel[0]
        alike = bool((which == which[:, :1, :1]).all() and (channel == channel[:, :1, :1]).all()
                     and (pixel == at).all())
        sides = {self.by_name[s].sides for s in sources}
        if sides == {(1, 1)} and len({self.by_name[s].flat for s in sources}) > 1:
            return self._select(self._of_vectors(numbers, sources))
        if not alike or len(sides) > 1:
            self.refuse("it hands pixels on in another order")
        (rows, columns), = sides
        name = self._picked(which[:, 0, 0], channel[:, 0, 0], sources)
        if (rows, columns) == (height, width) and torch.equal(at.flatten(), torch.arange(height * width)):
            return name
        down, right = -(-rows // height), -(-columns // width)
        grid = torch.arange(0, rows, down)[:, None] * columns + torch.arange(0, columns, right)
        if not torch.equal(grid, at):
            self.refuse("it takes a part of a map")
        count = self.by_name[name].channels
        return self.new("max_pool", [name], count, (height, width), name=self.before("pixels"),
                        stride=(down, right)).step or ""

    def _flatten(self, numbers: Tensor) -> str:
        """A vector of all pixels of channels, [channels * height * width]."""
        which, channel, pixel, sources = self._sources(numbers)
        (area, *others) = {self.by_name[s].pixels for s in sources}
        if others or len(numbers) % area or not torch.equal(pixel, torch.arange(area).repeat(len(numbers) // area)):
            self.refuse("it hands pixels on in another order than a flatten of [channels, height, width]")
        if len({self.by_name[s].flat for s in sources}) > 1:
            return self._flatten(self._of_vectors(numbers, sources))
        which, channel = which.view(-1, area), channel.view(-1, area)
        if not bool((which == which[:, :1]).all() and (channel == channel[:, :1]).all()):
            self.refuse("it mixes channels and pixels")
        name = self._picked(which[:, 0], channel[:, 0], sources)
        step = self.by_name[name]
        return name if step.flat else self.new(
            "flatten", [name], step.channels * area, flat=True, name=self.before("flat")).step or ""

    def _of_vectors(self, numbers: Tensor, sources: list[str]) -> Tensor:
        """Numbers of maps of one pixel, and of vectors, as those of vectors alone."""
        numbers = numbers.clone()
        for step in (self.by_name[s] for s in sources):
            if not step.flat:
                vector = self.new("flatten", [step.name], step.channels, flat=True,
                                  name=f"{self.before('flat')}_{len(self.found)}").step or ""
                of_this = (numbers >= self.first[step.name]) & (numbers < self.first[step.name] + step.channels)
                numbers[of_this] += self.first[vector] - self.first[step.name]
        return numbers

    def _picked(self, which: Tensor, channel: Tensor, sources: list[str]) -> str:
        """The step that has these channels of the sources."""
        number = {self.found.index(self.by_name[s]): i for i, s in enumerate(sources)}
        picks = tuple(zip([number[w] for w in which.tolist()], channel.tolist()))
        first = self.by_name[sources[0]]
        if picks == tuple((0, c) for c in range(first.channels)):
            return first.name
        key = (tuple(sources), picks)
        if key not in self.selected:
            flat = {self.by_name[s].flat for s in sources}
            self.selected[key] = self.new("select", sources, len(picks), first.sides, flat=flat == {True},
                                          name=self.before("channels"),
                                          picks=picks).step or ""
        return self.selected[key]

    def joined(self, steps: Sequence[Step]) -> View:
        """The channels of these steps, one step after another."""
        which = torch.cat([torch.full((s.channels,), self.found.index(s)) for s in steps])
        channel = torch.cat([torch.arange(s.channels) for s in steps])
        name = self._picked(which, channel, list(dict.fromkeys(s.name for s in steps)))
        step = self.by_name[name]
        return View((BATCH, step.channels) if step.flat else (BATCH, step.channels, *step.sides), name)

    def output(self, name: str) -> None:
        """Make the output the last step."""
        if self.found[-1].name != name:
            later = self.found[[s.name for s in self.found].index(name) + 1:]
            if any(name in s.inputs for s in later):
                self.refuse("the output is read inside of the network, too")
            step = self.by_name[name]
            self.found.remove(step)
            self.found.append(step)

    # --- functions -----------------------------------------------------------------------------------------

    def call(self, node: Any) -> Value:
        given, named = (fx.map_arg(a, lambda n: self.values[n.name]) for a in (node.args, node.kwargs))
        if node.target is operator.getitem:
            values, number = given
            return values[number]
        schema = getattr(node.target, "_schema", None)
        if schema is None:
            return self.refuse(f"{node.target} has no counterpart here")
        name = schema.name.rpartition("::")[2]
        bound = {a.name: a.default_value for a in schema.arguments}
        bound.update(zip((a.name for a in schema.arguments), given), **named)
        if name.startswith("_assert"):
            return None
        plain = name[:-1] if name.endswith("_") else name
        if plain in HANDED_ON:
            return self.handed_on(node, given, named)
        if plain not in self.functions and isinstance(next(iter(bound.values()), None), Parameter):
            return self.refuse(f"{plain} of a parameter: weights that are normalised or made on the fly")
        if plain not in self.functions:
            return self.refuse(REASONS.get(plain, f"{plain} has no counterpart here"))
        value = self.functions[plain](self, bound)
        if name.endswith("_"):  # whoever reads its input later, reads what it made of it
            self.values[node.args[0].name] = value
        return value

    def handed_on(self, node: Any, given: Any, named: Any) -> Value:
        if given[0] is None:
            self.refuse("it reads where a maximum is, not what it is")
        if isinstance(given[0], Zeros) and isinstance(node.meta["val"], Tensor):
            return Zeros(tuple(node.meta["val"].shape))
        if isinstance(given[0], Pending):
            found = self.rearranged(node.target, (given[0].x, *given[1:]), named)
            return Pending(found, given[0].part) if isinstance(found,
                                                               View) else self.refuse(f"parts of {given[0].part}")
        if any(isinstance(a, Parameter) for a in given):
            if node.target in (torch.ops.aten.contiguous.default, torch.ops.aten.detach_.default,
                               torch.ops.aten.lift_fresh_copy.default, torch.ops.aten.alias.default):
                return given[0]
            if not isinstance(node.meta["val"], Tensor):
                return self.refuse("a parameter is cut into parts: weights that are made anew in every pass")
            shape = tuple(node.meta["val"].shape)
            kept = node.target.__name__.partition(".")[0] in KEEP_ORDER
            if kept and prod(shape) == prod(given[0].shape):
                return Parameter(given[0].name, shape)
            return self.refuse("a parameter is cut, turned or repeated: weights that are made anew in every pass")
        return self.rearranged(node.target, given, named)

    def unary(self, kind: str, value: Value, **more: Any) -> View:
        step = self.by_name[self.read(value)]
        return self.new(kind, [step.name], step.channels, step.sides, flat=step.flat, **more)

    def pooled(self, kind: str, value: Value, sides: Sequence[int], **fields: Any) -> View:
        step = self.by_name[self.read(value)]
        return self.new(kind, [step.name], step.channels, sides, **fields)
