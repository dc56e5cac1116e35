"""Batch norms, activations and paddings of traced steps (tracer.py) become parts of layers that they stand beside."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Optional

from model.tracer import Step

FOLDS_NORM = ("conv", "depthwise", "linear")  # a batch norm behind it becomes a part of it
FOLDS_ACTIVATION = (*FOLDS_NORM, "batch_norm", "add")


def folded(steps: Sequence[Step]) -> list[Step]:
    """The steps with batch norms, activations and paddings as parts of the layers that they follow or precede."""
    found = list(steps)
    for rule in (_fold_norm, _fold_activation, _fold_padding, _fold_pool):
        readers = defaultdict(list)
        for step in found:
            for name in step.inputs:
                readers[name].append(step.name)
        by_name, gone, changed, last = {s.name: s for s in found}, set(), {}, found[-1].name
        for step in found:
            before = changed.get(step.inputs[0], by_name[step.inputs[0]]) if len(step.inputs) == 1 else None
            if before is None or readers[before.name] != [step.name] or before.name == last:
                continue
            one = rule(before, step)
            if one is not None:
                gone.add(before.name)
                changed[step.name] = replace(one, name=step.name)
        found = [changed.get(s.name, s) for s in found if s.name not in gone]
    return found


def _fold_norm(before: Step, step: Step) -> Optional[Step]:
    if step.kind != "batch_norm" or before.kind not in FOLDS_NORM or "bn" in before.fields:
        return None
    fields = {**before.fields, "bn": True, **{k: step.fields[k] for k in ("bn_epsilon", "bn_momentum")}}
    return replace(before, fields=fields, parameters={**before.parameters,
                                                      **{f"bn.{k}": v for k, v in step.parameters.items()}})


def _fold_activation(before: Step, step: Step) -> Optional[Step]:
    if step.kind != "activation" or before.kind not in FOLDS_ACTIVATION or "activation" in before.fields:
        return None
    return replace(before, fields={**before.fields, **step.fields})


def _fold_padding(before: Step, step: Step) -> Optional[Step]:
    if before.kind != "pad" or step.kind not in ("conv", "depthwise"):
        return None
    padding = tuple(a + b for a, b in zip(before.fields["padding"], step.fields["padding"]))
    return replace(step, inputs=before.inputs, fields={**step.fields, "padding": padding})


def _fold_pool(before: Step, step: Step) -> Optional[Step]:
    if before.kind != "adaptive_average_pool" or step.kind != "flatten" or before.sides != (1, 1):
        return None
    return replace(step, kind="pool", inputs=before.inputs, fields={})
