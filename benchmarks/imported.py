"""How long a training step of an imported network takes, beside one of the module that it was imported from.

    python benchmarks/imported.py [--model=torchvision:resnet18 --img_size=32] [--pairs=30] [--json]

Both have the same weights, precision and layout, and see the same images. Pairs of steps alternate in one process, each
pair in the other order. The results are medians, and the median of the ratios within pairs.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch

from model.torch_net import TorchNet
from utils.common import cli
from utils.common.provenance import made_by
from utils.importing import assembly, modules
from utils.importing.settings import IMAGENET_MEAN, IMAGENET_STD, Import
from utils.learning import device as devices
from utils.learning import training
from utils.learning.settings import Recipe
from utils.learning.sgd_step import SgdStep

RECIPE = Recipe(0.01, 0.9, 5e-4, 128)


def get_parser() -> argparse.ArgumentParser:
    parser = cli.new_parser(__doc__)
    parser.add_argument("--model", default="torchvision:resnet18", help="as in import_network.py")
    parser.add_argument("--img_size", type=cli.within(int, 4, 4096), default=32, help="side of the images, pixels")
    parser.add_argument("--batch_size", type=cli.within(int, 2, 4096), default=RECIPE.batch_size, help="images")
    parser.add_argument("--pairs", type=cli.within(int, 2, 10_000), default=30, help="of steps")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="as in train.py")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    device = devices.pick(args.device, args.precision)
    sides = (args.img_size, args.img_size)
    asked = Import("imported", args.model, {}, None, None, sides, IMAGENET_MEAN, IMAGENET_STD, (), 0)
    imported: TorchNet = assembly.read_in(asked).model
    both = [device.place(m).train() for m in (modules.make(args.model, {}, 0), imported)]
    steps = [SgdStep(model, training.sgd(model, RECIPE), device) for model in both]
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(args.batch_size, 3, *sides, generator=generator).to(
        device.name, memory_format=torch.channels_last)
    labels = (torch.arange(args.batch_size) % 10).to(device.name)

    def seconds(step: SgdStep) -> float:
        began = time.perf_counter()
        step(images, labels).item()
        return time.perf_counter() - began

    for step in 3 * steps:  # warm
        seconds(step)
    times = []
    for number in range(args.pairs):
        order = (0, 1) if number % 2 else (1, 0)
        found = {i: seconds(steps[i]) for i in order}
        times.append((found[0], found[1]))
    ratios = [after / before for before, after in times]
    result = {"made_by": made_by(), "model": args.model, "img_size": args.img_size, "batch_size": args.batch_size,
              "device": device.name, "precision": device.precision, "threads": torch.get_num_threads(),
              "pairs": args.pairs, "module_s": statistics.median(t[0] for t in times),
              "imported_s": statistics.median(t[1] for t in times), "ratio": statistics.median(ratios),
              "quartiles": statistics.quantiles(ratios)}
    if args.json:
        print(json.dumps(result))
        return
    print(f"{args.model} at {args.img_size} pixels, {args.batch_size} images a step, {args.pairs} pairs: module "
          f"{result['module_s'] * 1e3:.1f} ms, imported {result['imported_s'] * 1e3:.1f} ms, median ratio "
          f"{result['ratio']:.3f} (quartiles {result['quartiles'][0]:.3f}, {result['quartiles'][2]:.3f})")


if __name__ == "__main__":
    cli.run(main, resumable=False)
