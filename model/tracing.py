"""A torch module as a list of steps, by ``torch.export``: what is computed, in order, in the words of operators.py.

    trace = traced(module.eval(), (32, 32), channels=3)
    for step in trace.steps: ...            # name, kind, inputs, fields of a Node, parameters, channels and sides

The module is not changed. Whatever only hands values on (view, permute, chunk, cat, slice, flatten ...) is run on
integer tensors, in which every element has a number. So no such function needs a rule of its own: a tensor that a
convolution reads is the *selection* of channels that its numbers say. What the steps cannot express raises Refused,
naming the layer.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Callable, NoReturn, Optional, Union

import torch
from torch import Tensor, fx, nn

from model.operators import Padding, Sides, convolved, pair, same_padding  # noqa: F401

APART = 1 << 40  # of the numbers of elements of two images
BATCH = 2  # images of the example: a batch of one hides what mixes images


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
class Trace:
    """steps: the image first, the output last. graph: the traced program, whose nodes give the steps their names."""

    steps: tuple[Step, ...]
    program: torch.export.ExportedProgram


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


HARD = {"relu6(x + 3)": "hard_sigmoid", "x * relu6(x + 3)": "hard_swish"}  # behind a division by 6

Value = Any  # a View, a Parameter, a list of them, a number or None


@dataclass(frozen=True)
class Parameter:
    name: str  # in the state dict of the user's module
    shape: tuple[int, ...]


def traced(module: nn.Module, sides: Sides, channels: int = 3) -> Trace:
    """Trace a module in eval mode for images of these sides, pixels. Raises Refused."""
    example = torch.zeros(BATCH, channels, *sides)
    _check_runs(module, example)
    try:
        program = torch.export.export(module, (example,), strict=False)
    except Exception as error:  # torch raises many kinds
        raise Refused(f"it cannot be traced: {_reason(error)}") from error
    return Trace(tuple(_Tracer(program, module).steps()), program)


def _check_runs(module: nn.Module, example: Tensor) -> None:
    scripted = next((name or "the module" for name, m in module.named_modules()
                     if isinstance(m, (torch.jit.ScriptModule, torch.jit.ScriptFunction))), None)
    if scripted:
        raise Refused(f"{scripted}: a ScriptModule; give the Python module that it was made of")
    size = f"images of {example.shape[2]}x{example.shape[3]} pixels and {example.shape[1]} channels"
    try:
        with torch.no_grad():
            found = module(example)
    except Exception as error:  # the user's own code
        if isinstance(error, TypeError) and "positional argument" in str(error):
            raise Refused(f"it takes several inputs ({_reason(error)}); wrap it in a module of one image") from error
        raise Refused(f"it cannot take {size}: {_reason(error)}") from error
    if not isinstance(found, Tensor):
        raise Refused(f"its output is a {type(found).__name__}; wrap it in a module that returns the logits alone")
    if found.dim() != 2 or len(found) != len(example):
        raise Refused(f"its output is of shape {list(found.shape)} for {len(example)} images, expected "
                      f"[{len(example)}, classes]")


def _reason(error: Exception) -> str:
    words = {"GuardOnDataDependentSymNode": "what it computes depends on values of the image (an if, a loop, an index)"}
    line = next((line for line in str(error).strip().splitlines() if line.strip()), "")
    return words.get(type(error).__name__, f"{type(error).__name__}: {line}"[:300])


class _Tracer:
    """Walks through the traced graph, and collects steps."""

    def __init__(self, program: torch.export.ExportedProgram, module: nn.Module):
        self.module = module
        self.graph, self.signature = program.graph, program.graph_signature
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
            if isinstance(value, (Parameter, Pending)):
                return self.refuse("it hands parameters and maps on together")
            if isinstance(value, View):
                return self.numbers(value)
            if isinstance(value, (list, tuple)):
                return [number(v) for v in value]
            return value

        result = function(*[number(a) for a in given], **{k: number(v) for k, v in named.items()})

        def view(found: Tensor) -> View:
            step = self._owner(found)
            if step and step.channels * step.pixels * BATCH == found.numel():
                whole = View((BATCH, step.channels) if step.flat else (BATCH, step.channels, *step.sides), step.name)
                if whole.shape == tuple(found.shape) and torch.equal(found, self.numbers(whole)):
                    return whole
            return View(tuple(found.shape), None, found)

        return [view(t) for t in result] if isinstance(result, (list, tuple)) else view(result)

    def _owner(self, numbers: Tensor) -> Optional[Step]:
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
        which, channel = which.view(-1, area), channel.view(-1, area)
        if not bool((which == which[:, :1]).all() and (channel == channel[:, :1]).all()):
            self.refuse("it mixes channels and pixels")
        name = self._picked(which[:, 0], channel[:, 0], sources)
        step = self.by_name[name]
        return name if step.flat else self.new(
            "flatten", [name], step.channels * area, flat=True, name=self.before("flat")).step or ""

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
        if plain not in FUNCTIONS and isinstance(next(iter(bound.values()), None), Parameter):
            return self.refuse(f"{plain} of a parameter: weights that are normalised or made on the fly")
        if plain not in FUNCTIONS:
            return self.refuse(REASONS.get(plain, f"{plain} has no counterpart here"))
        value = FUNCTIONS[plain](self, bound)
        if name.endswith("_"):  # whoever reads its input later, reads what it made of it
            self.values[node.args[0].name] = value
        return value

    def handed_on(self, node: Any, given: Any, named: Any) -> Value:
        if isinstance(given[0], Pending):
            found = self.rearranged(node.target, (given[0].x, *given[1:]), named)
            return Pending(found, given[0].part) if isinstance(found,
                                                               View) else self.refuse(f"parts of {given[0].part}")
        if any(isinstance(a, Parameter) for a in given):
            if node.target in (torch.ops.aten.contiguous.default, torch.ops.aten.detach_.default,
                               torch.ops.aten.lift_fresh_copy.default, torch.ops.aten.alias.default):
                return given[0]
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


Bound = dict[str, Any]


def _conv(t: _Tracer, b: Bound) -> View:
    x, weight = t.by_name[t.read(b["input"])], b["weight"]
    if not isinstance(weight, Parameter):
        t.refuse("its weight is computed anew in every pass (weights that are normalised or made on the fly)")
    if x.flat or len(weight.shape) != 4:
        t.refuse("a convolution of what is no map")
    cout, groups, kernel = weight.shape[0], b["groups"], weight.shape[2:]
    stride, dilation = (tuple(b[k]) * (2 // len(b[k])) for k in ("stride", "dilation"))
    if isinstance(b["padding"], str):
        total = [d * (k - 1) if b["padding"] == "same" else 0 for d, k in zip(dilation, kernel)]
        padding: Padding = (total[0] // 2, total[0] - total[0] // 2, total[1] // 2, total[1] - total[1] // 2)
    else:
        vertical, horizontal = tuple(b["padding"]) * (2 // len(b["padding"]))
        padding = (vertical, vertical, horizontal, horizontal)
    sides = [(side + before + after - d * (k - 1) - 1) // s + 1 for side, before, after, d, k, s in zip(
        x.sides, padding[::2], padding[1::2], dilation, kernel, stride)]
    fields: dict[str, Any] = {"kernel": _short(kernel), "stride": _short(stride), "dilation": _short(dilation),
                              "padding": padding, "bias": b["bias"] is not None}
    kind = "conv"
    if groups > 1 and groups == x.channels:
        kind, fields["multiplier"] = "depthwise", cout // groups
    elif groups > 1:
        fields["grouped"], fields["groups"] = True, groups
    return t.new(kind, [x.name], cout, sides, parameters={"weight": weight, "bias": b["bias"]}, **fields)


def _short(values: Sequence[int]) -> Union[int, Sides]:
    return values[0] if values[0] == values[1] else (values[0], values[1])


def _linear(t: _Tracer, b: Bound) -> View:
    value, weight = b["input"], b["weight"]
    if not isinstance(weight, Parameter):
        t.refuse("its weight is computed anew in every pass (weights that are normalised or made on the fly)")
    at_pixels = isinstance(value, View) and len(value.shape) == 4
    x = t.by_name[t.read(_from_last(t, value))]
    found = t.new("linear", [x.name], weight.shape[0], x.sides, flat=x.flat, bias=b["bias"] is not None,
                  parameters={"weight": weight, "bias": b["bias"]})
    return _to_last(t, found) if at_pixels else found


def _from_last(t: _Tracer, value: Value) -> Value:
    """Maps of [N, height, width, channels], as layers read them that work on the last axis, as [N, channels, ...]."""
    if not isinstance(value, View) or len(value.shape) == 2:
        return value
    if len(value.shape) != 4:
        return t.refuse(f"it works on the last axis of {list(value.shape)}: tokens, as in attention, have no "
                        "counterpart")
    return t.rearranged(torch.permute, [value, (0, 3, 1, 2)], {})


def _to_last(t: _Tracer, value: View) -> Any:
    return t.rearranged(torch.permute, [value, (0, 2, 3, 1)], {})


def _batch_norm(t: _Tracer, b: Bound) -> View:
    if b["running_mean"] is None or b["training"]:
        t.refuse("a batch norm without running statistics, which takes those of each batch")
    names = ("weight", "bias", "running_mean", "running_var")
    return t.unary("batch_norm", b["input"], parameters={k: b[k] for k in names}, bn_epsilon=b["eps"],
                   bn_momentum=_momentum(t, b))


def _momentum(t: _Tracer, b: Bound) -> Optional[float]:
    """None, the mean over all batches, is traced as 0: the module knows."""
    if b["momentum"]:
        return b["momentum"]
    owner = dict(t.module.named_modules()).get(b["running_mean"].name.rpartition(".")[0])
    return getattr(owner, "momentum", None)


def _layer_norm(t: _Tracer, b: Bound) -> Any:
    value = b["input"]
    if len(b["normalized_shape"]) != 1:
        t.refuse("a layer norm over pixels")
    if b["weight"] is None:
        t.refuse("a layer norm without weights")
    found = t.unary("layer_norm", _from_last(t, value), parameters={"weight": b["weight"], "bias": b["bias"]},
                    bn_epsilon=b["eps"])
    return _to_last(t, found) if len(value.shape) == 4 else found


def _activation(name: str, **needed: Any) -> Callable[[_Tracer, Bound], Any]:
    def made(t: _Tracer, b: Bound) -> Any:
        wrong = {k: b[k] for k, v in needed.items() if b[k] != v}
        if wrong:
            t.refuse(f"{name} with {wrong}, expected {needed}")
        value = b.get("self", b.get("input"))
        if name == "relu6" and isinstance(value, Pending) and value.part == "x + 3":
            return Pending(value.x, "relu6(x + 3)")
        if not isinstance(value, View):
            return t.refuse(f"{name} of {value.part if isinstance(value, Pending) else 'a parameter'}")
        more = {"slope": float(b["negative_slope"])} if name == "leaky_relu" else {}
        if value.step is None and len(value.shape) == 4 and value.shape[0] == BATCH:  # the same in any order
            try:
                return t.unary("activation", value, activation=name, **more)
            except Refused:
                return _to_last(t, t.unary("activation", _from_last(t, value), activation=name, **more))
        return t.unary("activation", value, activation=name, **more)
    return made


def _clamp(t: _Tracer, b: Bound) -> Any:
    low, high = (b.get("min_val", b.get("min")), b.get("max_val", b.get("max")))
    if low != 0 or high not in (6, None):
        t.refuse(f"it keeps values within {low} and {high}; only ReLU and ReLU6 have a counterpart")
    return _activation("relu6" if high == 6 else "relu")(t, b)


def _add(t: _Tracer, b: Bound) -> Any:
    one, other = b["self"], b["other"]
    if b.get("alpha", 1) != 1:
        t.refuse("an addition with a factor")
    if other == 0 or one == 0:
        return other if one == 0 else one
    for x, constant in ((one, other), (other, one)):
        if isinstance(x, View) and isinstance(constant, (int, float)) and constant == 3:
            return Pending(x, "x + 3")
    if not isinstance(one, View) or not isinstance(other, View):
        t.refuse("an addition of a constant or of a parameter")
    if one.shape != other.shape:
        t.refuse(f"an addition of {list(one.shape)} and {list(other.shape)}")
    last = one.step is None and other.step is None and _is_last(t, one) and _is_last(t, other)
    if last:
        one, other = _from_last(t, one), _from_last(t, other)
    names = [t.read(one), t.read(other)]
    step = t.by_name[names[0]]
    found = t.new("add", names, step.channels, step.sides, flat=step.flat)
    return _to_last(t, found) if last else found


def _is_last(t: _Tracer, value: View) -> bool:
    """Whether this is a map as [N, height, width, channels]."""
    if value.step is not None or len(value.shape) != 4:
        return False
    back = _from_last(t, value)
    return isinstance(back, View) and back.step is not None


def _multiply(t: _Tracer, b: Bound) -> Any:
    one, other = b["self"], b["other"]
    if isinstance(one, Parameter) or isinstance(other, Pending):
        one, other = other, one
    if isinstance(one, Pending):
        if other is one.x and one.part == "relu6(x + 3)":
            return Pending(one.x, "x * relu6(x + 3)")
        return _sixth(t, one, other if isinstance(other, (int, float)) else None)
    if not isinstance(one, View):
        return t.refuse("a product of parameters")
    if isinstance(other, Parameter):
        return _scale(t, one, other)
    if not isinstance(other, View):
        return t.refuse(f"a product with the constant {other}")
    one, other = (_unexpanded(v) for v in (one, other))
    if prod(other.shape[2:]) > prod(one.shape[2:]):
        one, other = other, one
    if prod(one.shape) // prod(one.shape[2:]) != prod(other.shape) // prod(other.shape[2:]):
        return t.refuse(f"a product of {list(one.shape)} and {list(other.shape)}, which is no gate for channels")
    if len(other.shape) == 4 and other.shape[2:] == (1, 1) and other.step is None:
        other = t.rearranged(torch.flatten, [other, 1], {})  # a vector that was made a map of one pixel
    names = [t.read(one), t.read(other)]
    step, gate = (t.by_name[n] for n in names)
    if gate.sides not in (step.sides, (1, 1)):
        return t.refuse(f"a product of {list(one.shape)} and {list(other.shape)}, which is no gate for channels")
    return t.new("multiply", names, step.channels, step.sides, flat=step.flat)


def _unexpanded(value: View) -> View:
    """A gate that was expanded to a map, as one pixel again."""
    numbers = value.numbers
    if numbers is None or numbers.dim() != 4 or not bool((numbers == numbers[:, :, :1, :1]).all()):
        return value
    return View((*value.shape[:2], 1, 1), None, numbers[:, :, :1, :1])


def _divide(t: _Tracer, b: Bound) -> Any:
    one, other = b["self"], b["other"]
    if isinstance(one, Pending) and isinstance(other, (int, float)) and other:
        return _sixth(t, one, 1 / other)
    return t.refuse(f"a division by {other if isinstance(other, (int, float)) else 'a tensor'}")


def _sixth(t: _Tracer, value: Pending, factor: Optional[float]) -> View:
    """A sixth of what makes a hard sigmoid or a hard swish."""
    if value.part not in HARD or factor is None or abs(6 * factor - 1) > 1e-6:
        t.refuse(f"{value.part}, times {factor or 'a tensor'}, which is no hard sigmoid and no hard swish")
    return t.unary("activation", value.x, activation=HARD[value.part])


def _scale(t: _Tracer, value: View, factor: Parameter) -> Any:
    last = _is_last(t, value) and len(value.shape) == 4
    read = _from_last(t, value) if last else value
    step = t.by_name[t.read(read)]
    axis = len(factor.shape) - (1 if last or step.flat else 3)
    if axis < 0 or factor.shape[axis] != step.channels or prod(factor.shape) != step.channels:
        t.refuse(f"a product with a parameter of shape {list(factor.shape)}, which is no factor for each channel")
    found = t.new("scale", [step.name], step.channels, step.sides, flat=step.flat, parameters={"": factor})
    return _to_last(t, found) if last else found


def _cat(t: _Tracer, b: Bound) -> Any:
    if any(not isinstance(v, View) for v in b["tensors"]):
        t.refuse("it joins what are no tensors of images")
    steps = [t.by_name[v.step] if v.step else None for v in b["tensors"]]
    if b["dim"] % len(b["tensors"][0].shape) == 1 and len({s and (s.sides, s.flat) for s in steps}) == 1 and steps[0]:
        return t.joined([s for s in steps if s])  # which is common, and needs no numbers of all pixels
    return t.rearranged(torch.cat, [b["tensors"], b["dim"]], {})


def _mean(t: _Tracer, b: Bound) -> Any:
    value = b["self"]
    if not isinstance(value, View) or b["dim"] is None:
        t.refuse("a mean of what is no map, or over all axes")
    axes = sorted(d % len(value.shape) for d in b["dim"])
    if len(value.shape) == 3 and axes == [2] and value.numbers is not None:  # of maps that were flattened to rows
        step = t.found[int(torch.searchsorted(torch.tensor([t.first[s.name] for s in t.found]),
                                              value.numbers[0, 0, 0], right=True)) - 1]
        if step.pixels == value.shape[2]:
            value, axes = t.rearranged(torch.unflatten, [value, 2, step.sides], {}), [2, 3]
            if b["keepdim"]:
                t.refuse("a mean over rows that keeps its axis")
    if axes == [1, 2] and _is_last(t, value):
        value, axes = _from_last(t, value), [2, 3]
        if b["keepdim"]:
            t.refuse("a mean that keeps its axes, of maps whose channels are last")
    if len(value.shape) != 4 or axes != [2, 3]:
        t.refuse(f"a mean over the axes {axes} of {list(value.shape)}, expected all pixels")
    found = t.pooled("adaptive_average_pool", value, (1, 1), size=1)
    return found if b["keepdim"] else t.rearranged(torch.flatten, [found, 1], {})


def _adaptive(kind: str) -> Callable[[_Tracer, Bound], Any]:
    def made(t: _Tracer, b: Bound) -> Any:
        x = t.by_name[t.read(b.get("self", b.get("input")))]
        size = tuple(side if wanted is None else wanted for wanted, side in zip(b["output_size"], x.sides))
        if any(side % wanted for side, wanted in zip(x.sides, size)):
            t.refuse(f"an adaptive pool of {x.sides[0]}x{x.sides[1]} to {size[0]}x{size[1]} pixels, which do not "
                     "divide; another --img_size may")
        found = (View((BATCH, x.channels, *x.sides), x.name) if size == x.sides and size != (1, 1)
                 else t.pooled(kind, View((BATCH, x.channels, *x.sides), x.name), size, size=_short(size)))
        return [found, None] if kind == "adaptive_max_pool" else found
    return made


def _pool(kind: str) -> Callable[[_Tracer, Bound], Any]:
    def made(t: _Tracer, b: Bound) -> Any:
        x = t.by_name[t.read(b["self"])]
        if x.flat:
            t.refuse("a pool of what is no map")
        kernel = tuple(b["kernel_size"]) * (2 // len(b["kernel_size"]))
        stride = tuple(b["stride"] or kernel)
        stride, padding, dilation = (tuple(v) * (2 // len(v)) for v in (stride, b["padding"], b.get("dilation", [1])))
        if b.get("divisor_override") is not None:
            t.refuse("an average pool with a divisor of its own")
        fields = {"kernel": _short(kernel), "stride": _short(stride), "dilation": _short(dilation),
                  "ceil_mode": b["ceil_mode"], "count_include_pad": b.get("count_include_pad", True)}
        if any(padding):
            fields["padding"] = (padding[0], padding[0], padding[1], padding[1])
        value: Any = t.node.meta["val"]
        sides = (value[0] if isinstance(value, (list, tuple)) else value).shape[2:]
        if kind == "average_pool" and tuple(kernel) == x.sides and not any(padding):
            return t.pooled("adaptive_average_pool", b["self"], (1, 1), size=1)
        found = t.pooled(kind, b["self"], sides, **fields)
        return [found, None] if isinstance(value, (list, tuple)) else found
    return made


def _pad(t: _Tracer, b: Bound) -> Any:
    sizes = [*b["pad"], *[0] * 6][:6]
    if b.get("mode", "constant") != "constant" or b.get("value") not in (None, 0):
        t.refuse(f"a padding with {b.get('mode', 'constant')} {b.get('value')}, expected zeros")
    if min(b["pad"]) < 0 or len(b["pad"]) > 6:
        t.refuse(f"a padding by {b['pad']}")
    value, (left, right, top, bottom, before, behind) = b["self"] if "self" in b else b["input"], sizes
    x = t.by_name[t.read(value)]
    found = View((BATCH, x.channels, *x.sides), x.name)
    if top or bottom or left or right:
        found = t.pooled("pad", found, (x.sides[0] + top + bottom, x.sides[1] + left + right),
                         padding=(top, bottom, left, right))
    if before or behind:
        y = t.by_name[t.read(found)]
        found = t.new("pad_channels", [y.name], y.channels + before + behind, y.sides,
                      part=(before, before + y.channels))
    return found


def _dropout(t: _Tracer, b: Bound) -> Any:
    value = b.get("input", b.get("self"))
    if b.get("train"):
        t.refuse("a dropout that acts in evaluation, too; F.dropout takes training=self.training")
    return t.unary("dropout", value, rate=float(b["p"])) if b["p"] else value


FUNCTIONS: dict[str, Callable[[_Tracer, Bound], Any]] = {
    "conv2d": _conv, "linear": _linear, "batch_norm": _batch_norm, "layer_norm": _layer_norm, "add": _add,
    "mul": _multiply, "div": _divide, "cat": _cat, "concat": _cat, "mean": _mean, "pad": _pad, "constant_pad_nd": _pad,
    "dropout": _dropout, "feature_dropout": _dropout,
    "adaptive_avg_pool2d": _adaptive("adaptive_average_pool"), "adaptive_max_pool2d": _adaptive("adaptive_max_pool"),
    "max_pool2d": _pool("max_pool"), "max_pool2d_with_indices": _pool("max_pool"), "avg_pool2d": _pool("average_pool"),
    "relu": _activation("relu"), "relu6": _activation("relu6"), "hardtanh": _clamp, "clamp": _clamp,
    "hardswish": _activation("hard_swish"), "hardsigmoid": _activation("hard_sigmoid"),
    "sigmoid": _activation("sigmoid"), "silu": _activation("silu"), "leaky_relu": _activation("leaky_relu"),
    "gelu": _activation("gelu", approximate="none")}

# Functions that only hand elements on.
HANDED_ON = frozenset((
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "permute", "transpose", "movedim", "unsqueeze",
    "squeeze",
    "chunk", "split", "split_with_sizes", "tensor_split", "slice", "narrow", "select", "unbind", "contiguous", "clone",
    "alias", "detach", "lift_fresh_copy", "channel_shuffle", "native_channel_shuffle", "pixel_shuffle",
    "pixel_unshuffle",
    "to", "_to_copy", "type_as", "expand", "expand_as", "stack", "flip", "roll", "index_select", "t"))

# Those that also keep the order of a parameter's elements.
KEEP_ORDER = frozenset(("view", "reshape", "_unsafe_view", "flatten", "unflatten", "unsqueeze", "squeeze", "contiguous",
                        "clone", "alias", "detach", "lift_fresh_copy", "to", "_to_copy"))

REASONS = {
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
