"""Train a network from scratch and save it in checkpoints/SAVE_FILE.t7.

    python train.py --net='res' --depth=40 --width=2.0 --save_file='res-40-2'                  # CIFAR-10, 200 epochs
    python train.py --depth=16 --width=1 --data_loc=DIR --epochs=20 --lr_type=cosine --save_file='res-16-1'
    python train.py --depth=10 --width=1 --dataset=digits --epochs=10 --save_file='digits'     # needs no download
    python train.py --init='res-40-2-pruned' --learning_rate=0.01 --save_file='res-40-2-tuned'  # go on with its weights
    python train.py --channels='res-40-2-pruned' --teacher='res-40-2' \\
        --save_file='res-40-2-retrained'                                                       # a pruned network

The script writes the checkpoint after every epoch. After an interruption, the same command with --resume continues. It
ends with the same result as an uninterrupted run.
"""

if __name__ == "__main__":
    from utils.common.signals import answer_at_once
    answer_at_once()

import argparse
import ast
from functools import partial
from typing import Any, Optional

from model.architectures import describe, with_classes
from model.network import Network, Widths
from utils.common.channels import channels_path, read_channels
from utils.common.cli import (
    DEFAULT_NET,
    add_data_flags,
    add_network_flags,
    add_run_flags,
    add_size_flag,
    describe_or_fail,
    fraction,
    new_parser,
    note_shadowed,
    optimiser_flags,
    run,
    within,
)
from utils.common.errors import UserError
from utils.common.files import locate, save_name, writable_folder
from utils.common.lock import locked
from utils.learning.settings import Compute, Data, Recipe, Schedule, Teaching


def get_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    add_network_flags(parser)
    add_size_flag(parser)
    parser.add_argument("--channels",
                        help="train the channels that pruning left, nbr_channels/CHANNELS.pickle or a path")
    parser.add_argument("--init",
                        help="begin with the weights, the channels and the normalisation of this network, "
                             "checkpoints/INIT.t7 or a path; with another number of classes, the classifier is new")
    add_data_flags(parser)
    parser.add_argument("--full_train", action="store_true", help="train on the held-out images too")
    group = parser.add_argument_group("optimisation (SGD)")
    group.add_argument("--epochs", type=within(int, 1, 1_000_000), default=200, help="passes over the training images")
    optimiser_flags(group, learning_rate=0.1, rate_help="rate of the first epoch")
    group.add_argument("--lr_type", choices=("multistep", "cosine"), default="multistep", help="schedule of the rate")
    group.add_argument("--epoch_step", type=epoch_list, default=[60, 120, 160],
                       help="multistep: epochs at which the rate is multiplied by --lr_decay_ratio")
    group.add_argument("--lr_decay_ratio", type=fraction, default=0.2, help="multistep: the factor")
    group = parser.add_argument_group("knowledge distillation")
    group.add_argument("--teacher", help="learn from the logits of this network too, checkpoints/TEACHER.t7 or a path")
    group.add_argument("--temperature", type=within(float, 1e-2, 1e3), default=4.0, help="divisor of the logits")
    group.add_argument("--teacher_weight", type=within(float, 0, 1), default=0.9,
                       help="part of the loss that is the teacher's; the rest is the labels'")
    add_run_flags(parser, resume="go on after an interruption")
    parser.add_argument("--threads", type=within(int, 1, 4096),
                        help="threads of this process; the result depends on them (default: torch's choice)")
    parser.add_argument("--save_file", required=True, help="name of the checkpoint, checkpoints/SAVE_FILE.t7")
    return parser


def epoch_list(text: str) -> list[int]:
    try:
        value = ast.literal_eval(text)
        if isinstance(value, (list, tuple)) and all(isinstance(v, int) and v > 0 for v in value):
            return list(value)
    except (ValueError, SyntaxError):
        pass
    raise argparse.ArgumentTypeError(f"expected a list such as [60,120,160], found {text}")


def narrowed(network: Network, widths: Widths) -> Widths:
    """The network's widths with those of prunable groups, as far as it has them."""
    return {g.name: widths.get(g.name, g.width) if g.prunable else g.width for g in network.groups}


def main() -> None:
    args = get_parser().parse_args()

    given = (args.net, args.depth, args.width, args.img_size) != (DEFAULT_NET, None, None, None)

    def network_of(num_classes: Optional[int], initial: Optional[dict[str, Any]] = None) -> tuple[Network, Widths]:
        network = describe(**initial["arguments"]) if initial and not given else describe_or_fail(
            net=args.net, depth=args.depth, width=args.width, img_size=args.img_size)
        if num_classes is not None and (initial or "description" not in network.arguments):  # which has its classes
            network = with_classes(network, num_classes)
        if args.channels:
            return network, read_channels(channels_path(args.channels), network)
        return network, narrowed(network, initial["widths"]) if initial else network.full_widths

    note_shadowed(args.net)
    if not args.init:
        network_of(num_classes=None)  # reports wrong flags before torch is loaded and images are read
    path = writable_folder("checkpoints") / f"{save_name(args.save_file)}.t7"
    teaching = None
    if args.teacher:
        teaching = Teaching(locate(args.teacher, "checkpoints", ".t7"), args.temperature, args.teacher_weight)
        if teaching.teacher.resolve() == path.resolve():
            raise UserError(f"--save_file={args.save_file}: would overwrite the teacher; choose another name")
    recipe = Recipe(args.learning_rate, args.momentum, args.weight_decay, args.batch_size)
    schedule = Schedule(args.epochs, args.lr_type, tuple(args.epoch_step), args.lr_decay_ratio)
    data = Data(args.dataset, args.data_loc, args.workers, 0.0 if args.full_train else args.holdout_prop)
    compute = Compute(args.device, args.precision, args.threads, args.seed)

    from utils.learning import assembly, checkpoint, device  # torch takes seconds to load: first what does not need it
    with locked(path), device.memory_errors():
        initial = checkpoint.load_sound(locate(args.init, "checkpoints", ".t7")) if args.init else None
        unpruned, _ = network_of(None, initial)
        sizes = {k: v for k, v in unpruned.arguments.items() if k in ("depth", "width")}
        flags = {**{flag: value for flag, value in vars(args).items() if flag != "resume"}, **sizes}
        saved = None
        if args.resume:
            defaults = vars(get_parser().parse_args(["--save_file=x"]))
            saved, compute = assembly.unfinished(path, flags, compute, defaults)
        else:
            assembly.check_replaceable(path)
        training = assembly.Training(partial(network_of, initial=initial), recipe, schedule, data, compute, teaching,
                                     initial)
        error_pct = assembly.train(training, path, flags, saved)
    print(f"{path}: test error {error_pct:.2f}% after {args.epochs} epochs")


if __name__ == "__main__":
    run(main)
