"""Read in a torch network of your own, prove that it was understood, and save it for train.py, prune.py and export.py.

    python import_network.py --model=torchvision:mobilenet_v2 --weights=mobilenet_v2.pth --img_size=224 \\
        --save_file=mobilenet
    python import_network.py --model=my_nets.py:build --model_args='{"num_classes": 10}' --weights=mine.pth \\
        --img_size=32 --mean 0.5 0.5 0.5 --std 0.25 0.25 0.25 --save_file=mine

The script writes checkpoints/SAVE_FILE.t7, with the names of your module's parameters, and networks/SAVE_FILE.json, the
description, which needs no torch. It prints the groups of channels that are pruned together, what cannot be pruned and
why, and the proof. What it cannot express it refuses, naming the layer. --model with a FILE or a PACKAGE runs that
code.
"""

if __name__ == "__main__":
    from utils.common.signals import answer_at_once
    answer_at_once()

import argparse
import gc
import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from utils.common import cli
from utils.common.errors import UserError
from utils.common.files import save_name, writable_folder
from utils.common.lock import locked
from utils.importing.settings import IMAGENET_MEAN, IMAGENET_STD, Import


def get_parser() -> argparse.ArgumentParser:
    parser = cli.new_parser(__doc__)
    parser.add_argument("--model", required=True,
                        help="torchvision:NAME, timm:NAME, FILE.py:CALLABLE or PACKAGE.MODULE:CALLABLE; a callable "
                             "returns the torch.nn.Module")
    parser.add_argument("--model_args", type=json_object, default={}, help="arguments of it, a JSON object")
    parser.add_argument("--weights", help="state dict, .pth, .pt or .safetensors (default: as the module is made)")
    parser.add_argument("--classes", help="file with the name of a class per line, in the order of the logits")
    parser.add_argument("--img_size", type=cli.within(int, 4, 4096), nargs="+", required=True,
                        help="side of the images, pixels; or height and width")
    group = parser.add_argument_group("pixels in 0..1, per channel; one number each: grey images (default: ImageNet's)")
    group.add_argument("--mean", type=cli.within(float, -1e3, 1e3), nargs="+", help="mean")
    group.add_argument("--std", type=cli.within(float, 1e-6, 1e3), nargs="+", help="standard deviation")
    parser.add_argument("--keep", default="",
                        help="layers that are not to be pruned, LAYER,LAYER,...; * stands for anything")
    parser.add_argument("--seed", type=cli.within(int, 0, 2 ** 32 - 1), default=0,
                        help="seed of the module's own weights and of the proof")
    parser.add_argument("--save_file",
                        help="name of the results, in checkpoints/ and networks/; not with --dry_run")
    parser.add_argument("--dry_run", action="store_true", help="write nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    return parser


def json_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a JSON object such as '{{\"num_classes\": 10}}' "
                                         f"({error})") from error
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"expected a JSON object such as '{{\"num_classes\": 10}}', found {text}")
    return found


def check_pixels(mean: Sequence[float], std: Sequence[float]) -> None:
    """Raise UserError unless these are of colour or of grey images."""
    if len(mean) != len(std) or len(mean) not in (1, 3):
        raise UserError(f"--mean, --std: expected three numbers each (colour) or one (grey), found {len(mean)} and "
                        f"{len(std)}; a flag that is left out has ImageNet's three")


def main() -> None:
    args = get_parser().parse_args()
    if not args.save_file and not args.dry_run:
        raise UserError("--save_file is needed (only --dry_run goes without)")
    if len(args.img_size) > 2:
        raise UserError(f"--img_size: expected a side, or height and width, found {len(args.img_size)} numbers")
    mean, std = args.mean or IMAGENET_MEAN, args.std or IMAGENET_STD
    check_pixels(mean, std)
    asked = Import(save_name(args.save_file or "network"), args.model, args.model_args,
                   Path(args.weights) if args.weights else None, Path(args.classes) if args.classes else None,
                   (args.img_size[0], args.img_size[-1]), tuple(mean), tuple(std),
                   tuple(filter(None, args.keep.split(","))), args.seed)
    cli.note_shadowed(asked.name)

    gc.disable()  # a seventh of the time; little that is large lies in cycles here
    from utils.importing import assembly  # torch takes seconds to load: first what does not need it
    from utils.learning import device
    device.keep_memory(large=True)
    folders = [] if args.dry_run else [writable_folder(cli.NETWORKS), writable_folder("checkpoints")]
    checkpoint = Path("checkpoints") / f"{asked.name}.t7"
    with nullcontext() if args.dry_run else locked(checkpoint), device.memory_errors():
        if folders:
            assembly.check_replaceable(checkpoint, folders[0] / f"{asked.name}.json")
        found = assembly.read_in(asked)
        written = assembly.write(found, asked, vars(args), *folders) if folders else []
    if args.json:
        print(json.dumps({**found.report.as_dict(), "left_out": list(found.left_out), "lost": list(found.lost)}))
        return
    for line in assembly.lines(found, asked, given=args.mean is not None):
        print(line)
    print(", ".join(map(str, written)) if written else "nothing was written (--dry_run)")


if __name__ == "__main__":
    cli.run(main, resumable=False)
