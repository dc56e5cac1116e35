"""One import from beginning to end: make the module, trace it, describe it, prove it, and write what was found."""

import fnmatch
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from model.architectures import describe
from model.description import as_dict
from model.network import Network
from model.torch_net import TorchNet
from model.traced import described
from model.tracer import Refused
from model.tracing import Trace, traced
from utils.common.checksum import KEY, signed_json
from utils.common.errors import UserError
from utils.common.files import write_whole
from utils.common.output import quiet
from utils.importing import modules, proof, weights
from utils.importing.report import Report
from utils.importing.settings import Import
from utils.learning import checkpoint
from utils.learning.data import RANDOM, Normalisation


@dataclass(frozen=True)
class Imported:
    model: TorchNet  # with the module's weights
    classes: tuple[str, ...]  # names, none if they are unknown
    left_out: tuple[str, ...]  # names of weights in the file that the module does not have
    lost: tuple[str, ...]  # modules of which only what they do in evaluation was read
    report: Report

    @property
    def network(self) -> Network:
        return self.model.network


def read_in(asked: Import) -> Imported:
    """Read in a module, and prove it; writes nothing. Raises UserError where it cannot be expressed, or proved."""
    with quiet(1):  # what the module's own code prints
        module = modules.make(asked.model, asked.model_args, asked.seed)
    left_out = weights.load_into(module, asked.weights) if asked.weights else []
    try:
        with quiet(1, 2):  # torch's own words
            trace = traced(module, asked.sides, len(asked.mean))
        found = described(trace.steps, _kept(asked.keep, trace))
    except Refused as error:
        raise UserError(f"--model={asked.model}: {error}") from error
    try:
        network = describe(asked.name, description=as_dict(found.network, asked.name))
    except ValueError as error:
        raise UserError(f"--model={asked.model}: {error}") from error
    found = replace(found, network=network)
    classes = _classes(asked, network.arguments["num_classes"])
    try:
        model = weights.with_weights(TorchNet, found, module.state_dict())
        proved = proof.prove(module, trace, found, asked.seed)
    except UserError as error:
        raise UserError(f"--model={asked.model}: {error}") from error
    return Imported(model, classes, tuple(left_out), trace.lost, Report(found, proved))


def _kept(patterns: tuple[str, ...], trace: Trace) -> dict[str, str]:
    """{parameter: reason} of layers whose path in the module matches a pattern. Raises UserError for one that matches
    none."""
    paths = {name: name.rpartition(".")[0] or name for step in trace.steps for name in step.parameters.values()}
    found = {}
    for pattern in patterns:
        matching = [name for name, path in paths.items() if fnmatch.fnmatchcase(path, pattern)]
        if not matching:
            some = list(dict.fromkeys(paths.values()))[:4]
            raise UserError(f"--keep={pattern}: no layer of that name; some are {', '.join(some)}")
        found.update(dict.fromkeys(matching, f"--keep={pattern}"))
    return found


def _classes(asked: Import, count: int) -> tuple[str, ...]:
    if asked.classes is None:
        return ()
    try:
        names = asked.classes.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{asked.classes}: {error}; expected a class name per line") from error
    if len(names) != count or not all(names):
        raise UserError(f"{asked.classes}: {len(names)} lines, {names.count('')} of them empty; expected the names of "
                        f"the network's {count} classes, one per line")
    return tuple(names)


def check_replaceable(path: Path, description: Path) -> None:
    """Raise UserError unless both places are free or hold an import, which a new one may replace."""
    if path.exists() and "model" not in checkpoint.load(path)["flags"]:
        raise UserError(f"{path}: a network that was trained or pruned here; choose another --save_file")
    if description.exists() and f'"{KEY}"' not in description.read_text(errors="replace"):
        raise UserError(f"{description}: a description that was written by hand; choose another --save_file")


def write(found: Imported, asked: Import, flags: Mapping[str, Any], networks: Path, checkpoints: Path) -> list[Path]:
    """Write the description and the checkpoint, whole; returns their paths."""
    description, weights_file = networks / f"{asked.name}.json", checkpoints / f"{asked.name}.t7"
    write_whole(description, signed_json(found.network.arguments["description"]))
    checkpoint.save(weights_file, found.model, Normalisation(asked.mean, asked.std), epoch=0, error_history=[],
                    holdout_prop=0.0, flags={**flags, "dataset": RANDOM},
                    **({"classes": list(found.classes)} if found.classes else {}))
    return [description, weights_file]


def lines(found: Imported, asked: Import, given: bool) -> Iterator[str]:
    """For people. given: whether the mean and the deviation of pixels were."""
    height, width = asked.sides
    made = f"weights of {asked.weights}" if asked.weights else (
        f"no --weights: as {asked.model} makes it, with seed {asked.seed}")
    yield f"{asked.name}: {asked.model}, {made}"
    if found.left_out:
        yield f"note: weights that the module does not have were left out: {', '.join(found.left_out)}"
    if found.lost:
        yield f"note: what these do in training alone is not read in: {weights.some(found.lost)}"
    yield (f"images of {height}x{width} pixels, {'colour' if len(asked.mean) == 3 else 'grey'}, mean "
           f"{_words(asked.mean)}, "
           f"deviation {_words(asked.std)}" + ("" if given else " (ImageNet's; --mean and --std are not given)"))
    yield from found.report.lines()


def _words(values: tuple[float, ...]) -> str:
    return " ".join(f"{v:g}" for v in values)
