"""How long import_network.py takes, proof included, beside the loading of torch and torchvision alone.

    python benchmarks/import_time.py [--models resnet18 densenet121 ...] [--rounds=3] [--img_size=224] [--json]

Each round times every network once, in a process of its own, and before it a process that imports torch and torchvision
and nothing else: on a busy machine both take longer. The results are medians over the rounds, and of their ratios.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from utils.common import cli
from utils.common.provenance import made_by

NETWORKS = ("resnet18", "resnet50", "wide_resnet50_2", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large",
            "vgg11_bn", "alexnet", "squeezenet1_1", "densenet121", "googlenet", "efficientnet_b0",
            "shufflenet_v2_x1_0", "regnet_y_400mf", "mnasnet1_0", "convnext_tiny")
ARGUMENTS = {"googlenet": {"aux_logits": False, "init_weights": False}}


def get_parser() -> argparse.ArgumentParser:
    parser = cli.new_parser(__doc__)
    parser.add_argument("--models", nargs="+", default=NETWORKS, help="of torchvision")
    parser.add_argument("--rounds", type=cli.within(int, 1, 1000), default=3, help="times that each is imported")
    parser.add_argument("--img_size", type=cli.within(int, 4, 4096), default=224, help="side of the images, pixels")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def seconds(*command: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def importing(model: str, img_size: int) -> tuple[str, ...]:
    return (str(ROOT / "import_network.py"), f"--model=torchvision:{model}", f"--img_size={img_size}", "--dry_run",
            f"--model_args={json.dumps(ARGUMENTS.get(model, {}))}")


def main() -> None:
    args = get_parser().parse_args()
    found: dict[str, list[tuple[float, float]]] = {model: [] for model in args.models}
    for number in range(1, args.rounds + 1):
        for model in args.models:
            found[model].append((seconds("-c", "import torch, torchvision"),
                                 seconds(*importing(model, args.img_size))))
            print(f"round {number}: {model} {found[model][-1][1]:.1f} s, loading alone {found[model][-1][0]:.1f} s",
                  file=sys.stderr, flush=True)
    rows = {model: {"import_s": statistics.median(taken for _, taken in pairs),
                    "loading_s": statistics.median(loading for loading, _ in pairs),
                    "ratio": statistics.median(taken / loading for loading, taken in pairs)}
            for model, pairs in found.items()}
    if args.json:
        print(json.dumps({"made_by": made_by(), "rounds": args.rounds, "img_size": args.img_size, "networks": rows}))
        return
    for model, row in rows.items():
        print(f"{model:<20}{row['import_s']:5.1f} s, loading alone {row['loading_s']:4.1f} s, ratio {row['ratio']:.2f}")


if __name__ == "__main__":
    cli.run(main, resumable=False)
