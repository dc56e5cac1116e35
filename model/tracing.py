"""A torch module as a list of steps, by ``torch.export``: what is computed, in order, in the words of operators.py.

    trace = traced(module.eval(), (32, 32), channels=3)
    for step in trace.steps: ...            # name, kind, inputs, fields of a Node, parameters, channels and sides

The module is not changed.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.counterparts import FUNCTIONS
from model.operators import Sides
from model.tracer import BATCH, Refused, Step, Tracer


@dataclass(frozen=True)
class Trace:
    """steps: the image first, the output last. program: its nodes give the steps their names. lost: modules of which
    only what they do in evaluation is in the steps."""

    steps: tuple[Step, ...]
    program: torch.export.ExportedProgram
    lost: tuple[str, ...]


def traced(module: nn.Module, sides: Sides, channels: int = 3) -> Trace:
    """Trace a module in eval mode for images of these sides, pixels. Raises Refused."""
    example = torch.zeros(BATCH, channels, *sides)
    _check_runs(module, example)
    try:
        program = torch.export.export(module, (example,), strict=False)
    except Exception as error:  # torch raises many kinds
        raise Refused(f"it cannot be traced: {_reason(error)}") from error
    return Trace(tuple(Tracer(program, module, FUNCTIONS).steps()), program, _lost(module, program))


def _lost(module: nn.Module, program: torch.export.ExportedProgram) -> tuple[str, ...]:
    """Modules that act in training alone, such as stochastic depth, and dropouts of whole channels."""
    stacks = [list((node.meta.get("nn_module_stack") or {}).values()) for node in program.graph.nodes]
    modules = dict(module.named_modules(remove_duplicate=False))
    heard = {id(modules[path]) for stack in stacks for path, _ in stack if path in modules}
    silent = [f"{path} ({type(m).__name__})" for path, m in module.named_modules()
              if id(m) not in heard and not [*m.children(), *m.parameters()]
              and not type(m).__module__.startswith("torch.nn.")]
    channels = [f"{stack[-1][0] or 'the module itself'} (a dropout of whole channels)"
                for node, stack in zip(program.graph.nodes, stacks)
                if stack and str(node.target).startswith("aten.feature_dropout") and node.args[1]]
    return tuple(dict.fromkeys((*silent, *channels)))


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
