"""What test files lend each other: networks, tables, images, flags of small runs, and what an answer must be."""

import contextlib
import io
import json
import math
import os
import runpy
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.architectures import ARCHITECTURES, describe
from model.description import as_dict
from model.network import Group, Input, Network
from model.operators import Node, Segment, pair, units
from model.tflite_net import random_weights, write
from model.torch_net import TorchNet
from utils.deploy import metadata
from utils.latency import tables
from utils.learning import data
from utils.learning.data import Images, Normalisation
from utils.search.costs import Cost
from utils.search.pricing import LayerSum

ROOT = Path(__file__).resolve().parent.parent


# --- networks --------------------------------------------------------------------------------------------------

def depthwise_network() -> Network:
    """A small network unlike a WideResNet: depthwise convolutions, a removable branch of two layers, 12 x 12 images."""
    groups = (Group("image", 3, prunable=False), Group("stem", 6), Group("expanded", 8, removable=True),
              Group("classes", 4, prunable=False))
    nodes = (
        Node("Stem", "conv", ("image",), units("stem"), kernel=3, stride=2, bn=True, activation="relu", table="stem"),
        Node("Depth", "depthwise", ("Stem",), kernel=3, bn=True, activation="relu", table="depth"),
        Node("Expand", "conv", ("Depth",), units("expanded"), bn=True, activation="relu", table="expand"),
        Node("Filter", "depthwise", ("Expand",), kernel=3, bn=True, activation="relu", table="filter"),
        Node("Project", "conv", ("Filter",), units("stem"), table="project"),
        Node("Join", "add", ("Project", "Depth"), table="join"),
        Node("Pool", "pool", ("Join",)),
        Node("Classes", "linear", ("Pool",), units("classes"), bias=True, table="classes"),
    )
    return Network({"net": "depthwise"}, (Input("image", "image", 12),), groups, nodes)


def every_operator() -> Network:
    """A network of all operators: concats, splits, a shuffle, gates, grouped and depthwise convolutions, an addition of
    three; its maps are not square."""

    def both(repeat=1):
        return (Segment("C", repeat), Segment("D", repeat))

    groups = (Group("image", 3, prunable=False), Group("A", 8), Group("U", 4, removable=True), Group("C", 5),
              Group("D", 4, removable=True), Group("E", 3, removable=True), Group("H", 7),
              Group("L", 5, prunable=False), Group("P", 2), Group("Q", 3), Group("M", 6),
              Group("classes", 4, prunable=False))
    nodes = (
        Node("stem", "conv", ("image",), units("A"), kernel=3, bn=True, activation="relu"),
        Node("wide", "depthwise", ("stem",), kernel=3, multiplier=2, bias=True, activation="leaky_relu", slope=0.2),
        Node("unit", "conv", ("wide",), (Segment("U", 2),), bn=True, activation="silu", bn_epsilon=1e-3),
        Node("grouped", "conv", ("unit",), (Segment("U", 3),), kernel=3, dilation=2, padding=(2, 2, 2, 2), grouped=True,
             bn=True, activation="hard_swish"),
        Node("max", "max_pool", ("grouped",), kernel=3, stride=2, padding=(1, 1, 1, 1)),
        Node("two", "conv", ("wide",), both(), kernel=(3, 1), stride=2, padding=(1, 1, 0, 0), bias=True),
        Node("joined", "concat", ("max", "two")),
        Node("norm", "batch_norm", ("joined",), activation="gelu"),
        Node("first", "split", ("norm",), part=(0, 1)),
        Node("second", "split", ("norm",), part=(1, 3)),
        Node("again", "conv", ("second",), both(), bn=True, activation="relu6"),
        Node("pairs", "concat", ("second", "again")),
        Node("shuffled", "shuffle", ("pairs",), blocks=2),
        Node("mean", "adaptive_average_pool", ("shuffled",)),
        Node("squeeze", "conv", ("mean",), units("E"), bias=True, activation="relu"),
        Node("excite", "conv", ("squeeze",), both(2), bias=True, activation="hard_sigmoid"),
        Node("gated", "multiply", ("shuffled", "excite")),
        Node("pooled", "pool", ("first",)),
        Node("vector", "linear", ("pooled",), (Segment("U", 3),), bias=True, activation="sigmoid"),
        Node("weighed", "multiply", ("first", "vector")),
        Node("side", "conv", ("weighed",), both(2), bn=True),
        Node("sum", "add", ("gated", "shuffled", "side"), activation="relu"),
        Node("squares", "multiply", ("sum", "gated")),
        Node("average", "average_pool", ("squares",), kernel=2, stride=2, ceil_mode=True, count_include_pad=False),
        Node("largest", "adaptive_max_pool", ("average",), size=(3, 1)),
        Node("bordered", "pad", ("largest",), padding=(1, 0, 0, 1)),
        Node("level", "conv", ("bordered",), units("L")),
        Node("even", "layer_norm", ("level",), bn_epsilon=1e-2),
        Node("framed", "pad_channels", ("even",), units("P", "L", "Q"), part=(1, 2)),
        Node("beside", "conv", ("bordered",), units("P", "L", "Q"), bn=True),
        Node("beheld", "add", ("framed", "beside")),
        Node("dense", "linear", ("beheld",), units("M"), bias=True, activation="gelu"),
        Node("returned", "conv", ("dense",), both(2), kernel=3, bias=True),
        Node("met", "add", ("bordered", "returned")),
        Node("scaled", "scale", ("met",)),
        Node("bent", "activation", ("scaled",), activation="silu"),
        Node("dropped", "dropout", ("bent",), rate=0.3),
        Node("flat", "flatten", ("dropped",)),
        Node("hidden", "linear", ("flat",), units("H"), bias=True, bn=True, activation="sigmoid"),
        Node("classes", "linear", ("hidden",), units("classes"), bias=True),
    )
    return Network({"net": "everything", "num_classes": 4}, (Input("image", "image", (12, 10)),), groups, nodes)


def imported_like(name, a=16, b=24):
    """A description such as import_network.py writes: convolutions, a depthwise one, a classifier, 8 x 8 images."""
    groups = (Group("image", 3, prunable=False), Group("a", a), Group("b", b), Group("classes", 5, prunable=False))
    nodes = (Node("stem", "conv", ("image",), units("a"), kernel=3, stride=2, bn=True, activation="relu"),
             Node("wide", "conv", ("stem",), units("b"), bn=True, activation="relu6"),
             Node("depth", "depthwise", ("wide",), kernel=3, bn=True, activation="relu6"),
             Node("narrow", "conv", ("depth",), units("a"), bn=True), Node("sum", "add", ("stem", "narrow")),
             Node("mean", "adaptive_average_pool", ("sum",)), Node("flat", "flatten", ("mean",)),
             Node("logits", "linear", ("flat",), units("classes"), bias=True))
    return as_dict(Network({}, (Input("image", "image", 8),), groups, nodes), name)


EXAMPLES = [describe(net, **arguments) for net, module in ARCHITECTURES.items() for arguments in module.EXAMPLES]
NETWORKS = {**{network.short_name: network for network in EXAMPLES}, "depthwise": depthwise_network()}
TORCH_NETWORKS = {**NETWORKS, "everything": every_operator()}  # what other backends cannot write yet
SMALL = describe("res", depth=10, width=0.25)
TINY = describe("res", depth=10, width=0.125)

# For the search alone: no such layers could be built.
TOY = Network({"net": "toy"}, (Input("x", "x", 4),),
              (Group("x", 3, prunable=False), Group("a", 10), Group("b", 10, removable=True),
               Group("y", 2, prunable=False)),
              (Node("A", "conv", ("x",), units("a")), Node("B", "conv", ("A",), units("b")),
               Node("C", "conv", ("B",), units("a")), Node("Add", "add", ("A", "C")), Node("Pool", "pool", ("Add",)),
               Node("Y", "linear", ("Pool",), units("y"))))
TOY_WIDTHS = TOY.full_widths


def toy_latency(widths):
    """10 s for everything unpruned: every channel of a costs 0.4 s, of b 0.6 s; b in steps of 4 channels."""
    return 0.4 * widths["a"] + 0.6 * min(4 * math.ceil(widths["b"] / 4), 10)


def published(depth=16, width=1.0, name="res-16-1-avx512"):
    """A network of the results, by default that of the comparison, and its cost by its table."""
    network = describe("res", depth=depth, width=width)
    table = tables.read_table(ROOT / f"perf_tables/{name}.pickle", network)
    return network, Cost(LayerSum(network, tables.prices(network, table)))


def in_steps(network, seed):
    """Every layer takes a random time for its kernels of 4 outputs, and one for each of its inputs."""
    draw = np.random.default_rng(seed)

    def array(shape):
        inputs, outputs = np.arange(1, shape[0] + 1)[:, np.newaxis], np.arange(1, shape[1] + 1)
        return 1e-6 * (draw.uniform(1, 3) + draw.uniform(0.1, 1) * inputs * -(-outputs // 4))

    return Cost(LayerSum(network, tables.prices(network, {k: array(t.shape) for k, t in network.tables.items()})))


def records_in(path: Path) -> list[Any]:
    """The lines of a journal, without their checksums, or of a history."""
    return [json.loads(line.split("\t")[0]) for line in path.read_text().splitlines()]


def saved_anew(path: Path, content: dict[str, Any]) -> None:
    """Write a changed checkpoint as other programs do, without a checksum."""
    torch.save({k: v for k, v in content.items() if k != "sha256"}, path)


def written_anew(path: Path, content: dict[str, Any]) -> None:
    """Write a changed JSON file as a user does, without a checksum."""
    path.write_text(json.dumps({k: v for k, v in content.items() if k != "sha256"}))


def lively(model: TorchNet) -> TorchNet:
    """The model in eval mode with batch norms that do something."""
    torch.manual_seed(0)
    for layer in model.layers:
        if layer.node.kind == "scale":
            torch.nn.init.uniform_(model.get_parameter(layer.node.path), 0.5, 1.5)
    for module in model.modules():
        if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.LayerNorm)):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.3)
        if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            torch.nn.init.normal_(module.running_mean, std=0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def sensitive(model: TorchNet) -> TorchNet:
    """The same, and its batch norms have the statistics of 32 random images: outputs differ from image to image, even
    those of a deep network."""
    lively(model)
    norms = [m for m in model.modules() if isinstance(m, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d))]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    with torch.no_grad():
        model.train()(normalised_images(model.network, 32))
    return model.eval()


# --- images ----------------------------------------------------------------------------------------------------

NORMAL = Normalisation((0.5,) * 3, (0.25,) * 3)


def normalised_images(network, count=2):
    """Random ones, as a network takes them: float32 [count, 3, size, size]."""
    return torch.randn(count, 3, *network.inputs[0].sides, generator=torch.Generator().manual_seed(1))


def labelled_images(count, classes=4, sides=(12, 12)):
    """Random pixels, every class as often."""
    generator = torch.Generator().manual_seed(0)
    return Images(torch.randint(0, 256, (count, 3, *sides), dtype=torch.uint8, generator=generator),
                  torch.arange(count) % classes)


# --- tables ----------------------------------------------------------------------------------------------------

def arithmetic_table(network=SMALL, scale=0.1):
    """Every entry tells its key, cin and column: no two are equal."""
    def array(n, shape):
        return scale * np.fromfunction(lambda i, j: 1e-3 * (n + 1) + 1e-5 * (i + 1) + 1e-8 * (j + 1), shape)
    return {key: array(n, t.shape) for n, (key, t) in enumerate(network.tables.items())}


def proportional_table(network):
    """Every entry costs 1 µs per multiplication of a pixel: latencies go down as far as channels do."""
    def array(kernel, shape):
        return np.fromfunction(lambda i, j: 1e-6 * kernel ** 2 * (i + 1) * (j + 1), shape)
    return {key: array(pair(t.node.kernel)[0], t.shape) for key, t in network.tables.items()}


class Touch:
    """A pickle of it makes a folder where it is loaded by somebody who trusts it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


# --- exported models -------------------------------------------------------------------------------------------

EXPORTED = describe("res", depth=10, width=0.5)
REMOVED = {"Conv_2_0_1": 0, "Conv_3_0_1": 0}


def plain_model(change=()):
    """(a .tflite file of EXPORTED with random weights that says nothing of itself, its widths)"""
    widths = dict(EXPORTED.full_widths, **dict(change))
    return write(EXPORTED, widths, random_weights(EXPORTED, widths)), widths


def described(**more):
    """A .tflite file that says what it is, as export.py writes it."""
    model, widths = plain_model(REMOVED)
    about = {"network": EXPORTED.arguments, "widths": widths, "quantize": "none", **more}
    return metadata.append(model, [f"class {i}" for i in range(10)], about)


# --- scripts ---------------------------------------------------------------------------------------------------

TINY_FLAGS = ["--depth=10", "--width=0.125"]
TRAIN = ["train.py", *TINY_FLAGS, "--dataset=digits", "--epochs=1", "--save_file=base"]
PRUNE = ["prune.py", "--base_model=base", "--perf_table=table", "--save_file=pruned", "--pruning_fact=0.3",
         "--init_red_fact=2", "--short_term_fine_tune=1"]

NOT_ON_A_PI = ["torch", "torchvision", "tensorflow", "keras", "sklearn", "scipy", "matplotlib", "tqdm", "joblib"]
NOT_FOR_TRAINING = ["tensorflow", "keras", "ai_edge_litert", "tflite_runtime", "flatbuffers"]


def environment(**more: str) -> dict:
    return dict(os.environ, OMP_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1", **more)


def blocked(modules, code, cwd, flags=()):
    """Run ``code`` in a Python where these modules cannot be imported, nor in the processes that it starts."""
    begin = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nsys.argv = {['script', *flags]!r}\n"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "sitecustomize.py").write_text(
            "import sys\n" + "".join(f"sys.modules[{m!r}] = None\n" for m in modules))
        return subprocess.run([sys.executable, "-c", begin + code], cwd=cwd, capture_output=True, text=True,
                              timeout=300, env=environment(PYTHONPATH=folder))


@dataclass(frozen=True)
class Ran:
    """What a script did."""

    returncode: int
    stdout: str
    stderr: str


def run_here(name, *flags, cwd) -> Ran:
    """Run a script of the project in this process, as ``python NAME FLAGS`` in the folder ``cwd`` would."""
    out, err, here, argv, code = io.StringIO(), io.StringIO(), os.getcwd(), sys.argv, 0
    data._load.cache_clear()  # another process would read its images anew
    os.chdir(cwd)
    sys.argv = [str(ROOT / name), *flags]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_path(str(ROOT / name), run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        os.chdir(here)
        sys.argv = argv
        torch.set_num_threads(1)
    return Ran(code, out.getvalue(), err.getvalue())


def as_code(name):
    """What runs a script of the project, for ``blocked``."""
    return f"import runpy\nrunpy.run_path({str(ROOT / name)!r}, run_name='__main__')"


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refused(found, *words):
    """One line on stderr that holds these words, exit code 2, no traceback. A note on an older file may stand before
    it."""
    assert found.returncode == 2, (found.returncode, found.stderr)
    lines = [line for line in found.stderr.strip().splitlines() if "carries no checksum" not in line]
    assert len(lines) == 1 and lines[0].startswith("error: "), found.stderr
    for word in words:
        assert word in lines[0], lines[0]
