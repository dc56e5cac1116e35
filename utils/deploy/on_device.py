"""Models timed on the device, beside what its latency table predicts for them. The board's side: no torch."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from model.network import Network
from utils.common import channels
from utils.common.errors import UserError
from utils.deploy import metadata
from utils.deploy.metadata import Description
from utils.latency import model_timing
from utils.latency.model_timing import Timing
from utils.latency.note import Note, at_todays_speed
from utils.latency.runners import Runner
from utils.latency.tables import latency_s, read_table
from utils.latency.timing import Care

Descriptions = Mapping[Path, Optional[Description]]  # what each model is; None: nobody knows


@dataclass(frozen=True)
class Together:
    """Several models, measured in one session so that they compare."""

    seconds: dict[Path, float]
    failed: dict[Path, str]  # why the others could not be timed
    predicted_s: dict[Path, float]  # of those that the table predicts, for the machine as fast as it is now
    ratio: Optional[float]  # the probe now over the probe while the table was measured; None: not known

    def as_json(self) -> dict[str, Any]:
        models = {str(path): {"measured_s": s, "predicted_s": self.predicted_s.get(path)}
                  for path, s in self.seconds.items()}
        return {"probe_now_over_then": self.ratio, "models": models,
                **({"failed": {str(path): why for path, why in self.failed.items()}} if self.failed else {})}


def describe_model(path: Path, network: Optional[Network], channels_name: Optional[str], *,
                   needed: bool) -> Optional[Description]:
    """The description in a model's file; without one, a float32 model of ``network`` with these channels, if both are
    given; else None.

    needed: whether a table has to predict the model. Raises UserError if the file is no model, or if a needed
    description is missing.
    """
    metadata.check(path)
    about = metadata.read(path)
    if about is None and network and channels_name:
        print(f"{path}: taken on trust to be a float32 model of --channels={channels_name}", file=sys.stderr)
        widths = channels.read_channels(channels.channels_path(channels_name), network)
        about = Description(network, widths, "none")
    if needed and about is None:
        raise UserError(f"{path}: has no {metadata.NETWORK} in it, so --perf_table cannot predict it; export it with "
                        "export.py, name its --channels, or leave --perf_table out")
    return about


def in_words(about: Optional[Description]) -> str:
    """The model in words."""
    if about is None:
        return "a model without a description"
    parameters = about.network.parameter_count(about.widths)
    numbers = "float32" if about.quantize == "none" else about.quantize
    return f"{about.network.title}, {parameters:,} parameters, {numbers}"


def measure_one(path: Path, about: Optional[Description], table: Optional[Path], runner: Runner, care: Care,
                now: Note) -> Timing:
    """Time one model, beside the table's prediction. now: how it is measured, from ``how_measured``."""
    expectation = None
    if table and about:
        expectation = model_timing.expect(table, about.network, about.widths, about.quantize, now)
    return model_timing.time_model(path, path.name, runner, care, expectation)


def measure_several(about: Descriptions, table: Optional[Path], runner: Runner, care: Care, now: Note) -> Together:
    """Time several models in one session, beside the table's predictions for those it fits. now: as above."""
    expected = predictions(table, about) if table else {}
    first = about[next(iter(expected))] if expected else None
    probe = model_timing.table_probe(table, first.network, now) if table and first else None
    found = model_timing.time_together({str(path): path for path in about}, runner, care, probe)
    paths = {str(path): path for path in about}
    return Together({paths[name]: seconds for name, seconds in found.seconds.items()},
                    {paths[name]: why for name, why in found.failed.items()},
                    {path: at_todays_speed(seconds, found.ratio) for path, seconds in expected.items()}, found.ratio)


def predictions(table: Path, about: Descriptions) -> dict[Path, float]:
    """{path: predicted seconds} for the float32 networks that the table fits. The others are reported on stderr.
    Raises UserError if it fits none."""
    found, others = {}, []
    for path, what in about.items():
        try:
            if what is None:
                raise UserError(f"{path}: has no description of its model")
            if what.quantize != "none":
                raise UserError(f"{table}: measured on float32 layers, this is {what.quantize}")
            found[path] = latency_s(what.network, what.widths, read_table(table, what.network))
        except UserError as error:
            others.append(f"{path}: not predicted: {error}")
    if not found:
        raise UserError(others[0])
    if others:
        print(f"{len(others)} of {len(about)} models are not predicted, first {others[0]}", file=sys.stderr)
    return found
