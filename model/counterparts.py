"""What stands for a call of torch's in the words of operators.py: a function for each, found by name in FUNCTIONS.

Each takes the tracer and the call's arguments by name, makes steps, and returns the call's value. It refuses what the
operators cannot express.
"""

from collections.abc import Sequence
from math import prod
from typing import Any, Callable, Optional, Union

import torch

from model.operators import Padding, Sides
from model.tracer import BATCH, Bound, Function, Parameter, Pending, Refused, Tracer, Value, View, Zeros

HARD = {"relu6(x + 3)": "hard_sigmoid", "x * relu6(x + 3)": "hard_swish"}  # behind a division by 6


def _conv(t: Tracer, b: Bound) -> View:
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


def _linear(t: Tracer, b: Bound) -> View:
    value, weight = b["input"], b["weight"]
    if not isinstance(weight, Parameter):
        t.refuse("its weight is computed anew in every pass (weights that are normalised or made on the fly)")
    at_pixels = isinstance(value, View) and len(value.shape) == 4
    x = t.by_name[t.read(_from_last(t, value))]
    found = t.new("linear", [x.name], weight.shape[0], x.sides, flat=x.flat, bias=b["bias"] is not None,
                  parameters={"weight": weight, "bias": b["bias"]})
    return _to_last(t, found) if at_pixels else found


def _from_last(t: Tracer, value: Value) -> Value:
    """Maps of [N, height, width, channels], as layers read them that work on the last axis, as [N, channels, ...]."""
    if not isinstance(value, View) or len(value.shape) == 2:
        return value
    if len(value.shape) != 4:
        return t.refuse(f"it works on the last axis of {list(value.shape)}: tokens, as in attention, have no "
                        "counterpart")
    return t.rearranged(torch.permute, [value, (0, 3, 1, 2)], {})


def _to_last(t: Tracer, value: View) -> Any:
    return t.rearranged(torch.permute, [value, (0, 2, 3, 1)], {})


def _batch_norm(t: Tracer, b: Bound) -> View:
    if b["running_mean"] is None or b["training"]:
        t.refuse("a batch norm without running statistics, which takes those of each batch")
    names = ("weight", "bias", "running_mean", "running_var")
    return t.unary("batch_norm", b["input"], parameters={k: b[k] for k in names}, bn_epsilon=b["eps"],
                   bn_momentum=_momentum(t, b))


def _momentum(t: Tracer, b: Bound) -> Optional[float]:
    """None, the mean over all batches, is traced as 0: the module knows."""
    if b["momentum"]:
        return b["momentum"]
    owner = dict(t.module.named_modules()).get(b["running_mean"].name.rpartition(".")[0])
    return getattr(owner, "momentum", None)


def _layer_norm(t: Tracer, b: Bound) -> Any:
    value = b["input"]
    if len(b["normalized_shape"]) != 1:
        t.refuse("a layer norm over pixels")
    if b["weight"] is None:
        t.refuse("a layer norm without weights")
    found = t.unary("layer_norm", _from_last(t, value), parameters={"weight": b["weight"], "bias": b["bias"]},
                    bn_epsilon=b["eps"])
    return _to_last(t, found) if len(value.shape) == 4 else found


def _activation(name: str, **needed: Any) -> Callable[[Tracer, Bound], Any]:
    def made(t: Tracer, b: Bound) -> Any:
        for key, expected in needed.items():
            if b[key] != expected:
                t.refuse(f"{name} with {key}={b[key]}; only {key}={expected} has a counterpart")
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


def _clamp(t: Tracer, b: Bound) -> Any:
    low, high = (b.get("min_val", b.get("min")), b.get("max_val", b.get("max")))
    if low != 0 or high not in (6, None):
        t.refuse(f"it keeps values within {low} and {high}; only ReLU and ReLU6 have a counterpart")
    return _activation("relu6" if high == 6 else "relu")(t, b)


def _add(t: Tracer, b: Bound) -> Any:
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


def _is_last(t: Tracer, value: View) -> bool:
    """Whether this is a map as [N, height, width, channels]."""
    if value.step is not None or len(value.shape) != 4:
        return False
    back = _from_last(t, value)
    return isinstance(back, View) and back.step is not None


def _multiply(t: Tracer, b: Bound) -> Any:
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


def _divide(t: Tracer, b: Bound) -> Any:
    one, other = b["self"], b["other"]
    if isinstance(one, Pending) and isinstance(other, (int, float)) and other:
        return _sixth(t, one, 1 / other)
    return t.refuse(f"a division by {other if isinstance(other, (int, float)) else 'a tensor'}")


def _sixth(t: Tracer, value: Pending, factor: Optional[float]) -> View:
    """A sixth of what makes a hard sigmoid or a hard swish."""
    if value.part not in HARD or factor is None or abs(6 * factor - 1) > 1e-6:
        t.refuse(f"{value.part}, times {factor or 'a tensor'}, which is no hard sigmoid and no hard swish")
    return t.unary("activation", value.x, activation=HARD[value.part])


def _scale(t: Tracer, value: View, factor: Parameter) -> Any:
    last = _is_last(t, value) and len(value.shape) == 4
    read = _from_last(t, value) if last else value
    step = t.by_name[t.read(read)]
    axis = len(factor.shape) - (1 if last or step.flat else 3)
    if axis < 0 or factor.shape[axis] != step.channels or prod(factor.shape) != step.channels:
        t.refuse(f"a product with a parameter of shape {list(factor.shape)}, which is no factor for each channel")
    found = t.new("scale", [step.name], step.channels, step.sides, flat=step.flat, parameters={"": factor})
    return _to_last(t, found) if last else found


def _cat(t: Tracer, b: Bound) -> Any:
    b = {**b, "tensors": [v for v in b["tensors"] if not isinstance(v, Zeros) or v.shape != (0,)]}  # an empty start
    if len(b["tensors"]) == 1:
        return b["tensors"][0]
    if any(isinstance(v, Zeros) for v in b["tensors"]):
        return _cat_zeros(t, b["tensors"], b["dim"])
    if any(not isinstance(v, View) for v in b["tensors"]):
        t.refuse("it joins what are no tensors of images")
    steps = [t.by_name[v.step] if isinstance(v, View) and v.step else None for v in b["tensors"]]
    if b["dim"] % len(b["tensors"][0].shape) == 1 and len({s and (s.sides, s.flat) for s in steps}) == 1 and steps[0]:
        return t.joined([s for s in steps if s])  # which is common, and needs no numbers of all pixels
    return t.rearranged(torch.cat, [b["tensors"], b["dim"]], {})


def _cat_zeros(t: Tracer, tensors: Sequence[Value], dim: int) -> Any:
    """Maps with channels of zeros before and behind them."""
    maps = [i for i, v in enumerate(tensors) if not isinstance(v, Zeros)]
    if len(maps) != 1 or not isinstance(tensors[maps[0]], View) or dim % len(tensors[maps[0]].shape) != 1:
        t.refuse("it joins zeros with other than the channels of one map")
    before, behind = (sum(v.shape[1] for v in part) for part in (tensors[:maps[0]], tensors[maps[0] + 1:]))
    return _padded_channels(t, tensors[maps[0]], before, behind)


def _padded_channels(t: Tracer, value: View, before: int, behind: int) -> View:
    x = t.by_name[t.read(value)]
    return t.new("pad_channels", [x.name], x.channels + before + behind, x.sides, flat=x.flat,
                 part=(before, before + x.channels))


def _zeros(t: Tracer, b: Bound) -> Zeros:
    return Zeros(tuple(t.node.meta["val"].shape))


def _index(t: Tracer, b: Bound) -> Any:
    """x[:, [2, 1, 0]]"""
    indices = [t.constants.get(i.name) if isinstance(i, Parameter) else i for i in b["indices"]]
    if not isinstance(b["self"], View) or any(i is None and j is not None for i, j in zip(indices, b["indices"])):
        t.refuse("an index that is computed, or that is no constant")
    return t.rearranged(lambda x: x[tuple(slice(None) if i is None else i for i in indices)], [b["self"]], {})


def _reduced(kind: str, word: str) -> Callable[[Tracer, Bound], Any]:
    """A mean or a maximum over pixels: all, rows or columns."""
    def made(t: Tracer, b: Bound) -> Any:
        value, given = b["self"], b.get("dim")
        if "other" in b:
            t.refuse(f"a {word} of two tensors has no counterpart here")
        if not isinstance(value, View) or given in (None, []):
            t.refuse(f"a {word} of what is no map, or over all axes")
        axes = sorted(d % len(value.shape) for d in ([given] if isinstance(given, int) else given))
        if len(value.shape) == 3 and axes == [2] and value.numbers is not None:  # of maps that were flattened to rows
            step = t.owner(value.numbers)
            if step and step.pixels == value.shape[2]:
                value, axes = t.rearranged(torch.unflatten, [value, 2, step.sides], {}), [2, 3]
                if b["keepdim"]:
                    t.refuse(f"a {word} over rows that keeps its axis")
        if axes == [1, 2] and _is_last(t, value):
            value, axes = _from_last(t, value), [2, 3]
            if b["keepdim"]:
                t.refuse(f"a {word} that keeps its axes, of maps whose channels are last")
        if len(value.shape) != 4 or axes not in ([2], [3], [2, 3]):
            t.refuse(f"a {word} over the axes {axes} of {list(value.shape)}, expected pixels")
        sides = (1 if 2 in axes else value.shape[2], 1 if 3 in axes else value.shape[3])
        found: Any = t.pooled(kind, value, sides, size=_short(sides))
        if not b["keepdim"]:
            found = t.rearranged(torch.flatten if axes == [2, 3] else torch.squeeze,
                                 [found, 1 if axes == [2, 3] else axes[0]], {})
        return [found, None] if isinstance(t.node.meta["val"], (list, tuple)) else found
    return made


def _adaptive(kind: str) -> Callable[[Tracer, Bound], Any]:
    def made(t: Tracer, b: Bound) -> Any:
        x = t.by_name[t.read(b.get("self", b.get("input")))]
        size = tuple(side if wanted is None else wanted for wanted, side in zip(b["output_size"], x.sides))
        if any(side % wanted for side, wanted in zip(x.sides, size)):
            t.refuse(f"an adaptive pool of {x.sides[0]}x{x.sides[1]} to {size[0]}x{size[1]} pixels, which do not "
                     "divide; another --img_size may")
        found = (View((BATCH, x.channels, *x.sides), x.name) if size == x.sides and size != (1, 1)
                 else t.pooled(kind, View((BATCH, x.channels, *x.sides), x.name), size, size=_short(size)))
        return [found, None] if kind == "adaptive_max_pool" else found
    return made


def _pool(kind: str) -> Callable[[Tracer, Bound], Any]:
    def made(t: Tracer, b: Bound) -> Any:
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


def _pad(t: Tracer, b: Bound) -> Any:
    if not any(b["pad"]):
        return b["self"] if "self" in b else b["input"]
    sizes = [*b["pad"], *[0] * 6][:6]
    if b.get("mode", "constant") != "constant" or b.get("value") not in (None, 0):
        what = f"{b['mode']} of pixels" if b.get("mode", "constant") != "constant" else f"the constant {b['value']}"
        t.refuse(f"a padding with {what}; only zeros have a counterpart")
    if min(b["pad"]) < 0 or len(b["pad"]) > 6:
        t.refuse(f"a padding by {b['pad']}")
    value, (left, right, top, bottom, before, behind) = b["self"] if "self" in b else b["input"], sizes
    x = t.by_name[t.read(value)]
    found = View((BATCH, x.channels, *x.sides), x.name)
    if top or bottom or left or right:
        found = t.pooled("pad", found, (x.sides[0] + top + bottom, x.sides[1] + left + right),
                         padding=(top, bottom, left, right))
    return _padded_channels(t, found, before, behind) if before or behind else found


def _dropout(t: Tracer, b: Bound) -> Any:
    value = b.get("input", b.get("self"))
    if b.get("train"):
        t.refuse("a dropout that acts in evaluation, too; F.dropout takes training=self.training")
    return t.unary("dropout", value, rate=float(b["p"])) if b["p"] else value


FUNCTIONS: dict[str, Function] = {
    "conv2d": _conv, "linear": _linear, "batch_norm": _batch_norm, "layer_norm": _layer_norm, "add": _add,
    "mul": _multiply, "div": _divide, "cat": _cat, "concat": _cat, "pad": _pad, "constant_pad_nd": _pad,
    "mean": _reduced("adaptive_average_pool", "mean"), "amax": _reduced("adaptive_max_pool", "maximum"),
    "max": _reduced("adaptive_max_pool", "maximum"), "zeros": _zeros, "zeros_like": _zeros, "new_zeros": _zeros,
    "index": _index,
    "dropout": _dropout, "feature_dropout": _dropout,
    "adaptive_avg_pool2d": _adaptive("adaptive_average_pool"), "adaptive_max_pool2d": _adaptive("adaptive_max_pool"),
    "max_pool2d": _pool("max_pool"), "max_pool2d_with_indices": _pool("max_pool"), "avg_pool2d": _pool("average_pool"),
    "relu": _activation("relu"), "relu6": _activation("relu6"), "hardtanh": _clamp, "clamp": _clamp,
    "clamp_min": _clamp,
    "hardswish": _activation("hard_swish"), "hardsigmoid": _activation("hard_sigmoid"),
    "sigmoid": _activation("sigmoid"), "silu": _activation("silu"), "leaky_relu": _activation("leaky_relu"),
    "gelu": _activation("gelu", approximate="none")}
