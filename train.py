"""Train a network from scratch and keep it in checkpoints/SAVE_FILE.t7.

    python train.py --net='res' --depth=40 --width=2.0 --save_file='res-40-2'                  # CIFAR-10, 200 epochs
    python train.py --depth=16 --width=1 --data_loc=DIR --epochs=20 --lr_type=cosine --save_file='res-16-1'
    python train.py --depth=10 --width=1 --dataset=digits --epochs=10 --save_file='digits'     # needs no download
    python train.py --channels='res-40-2-pruned' --teacher='res-40-2' --save_file='res-40-2-retrained'  # what pruning left

The checkpoint is written after every epoch; after an interruption the same command with --resume goes on, and ends
where an uninterrupted run would have.
"""

import argparse
import ast
import time
from pathlib import Path

from utils.cli import (add_data_flags, add_network_flags, add_run_flags, changed_flags, describe_or_fail, fraction,
                       new_parser, optimiser_flags, run, within)
from utils import channels, journal
from utils.errors import UserError
from utils.files import locate, save_name, writable_folder

FREE_FLAGS = ("device", "workers", "data_loc")  # may differ between a run and its resumption


def get_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__.splitlines()[0])
    add_network_flags(parser)
    parser.add_argument("--channels", help="train what pruning left of that network, nbr_channels/CHANNELS.pickle or a path")
    add_data_flags(parser)
    parser.add_argument("--full_train", action="store_true", help="train on the held-out images too")
    group = parser.add_argument_group("optimisation (SGD)")
    group.add_argument("--epochs", type=within(int, 1, 1_000_000), default=200, help="passes over the training images")
    optimiser_flags(group, learning_rate=0.1, rate_help="rate of the first epoch")
    group.add_argument("--lr_type", choices=("multistep", "cosine"), default="multistep", help="schedule")
    group.add_argument("--epoch_step", type=epoch_list, default=[60, 120, 160],
                       help="multistep: epochs at which the rate is multiplied by --lr_decay_ratio")
    group.add_argument("--lr_decay_ratio", type=fraction, default=0.2, help="multistep: the factor")
    group = parser.add_argument_group("knowledge distillation")
    group.add_argument("--teacher", help="learn from the logits of this network too, checkpoints/TEACHER.t7 or a path")
    group.add_argument("--temperature", type=within(float, 1e-2, 1e3), default=4.0, help="by which logits are divided")
    group.add_argument("--teacher_weight", type=within(float, 0, 1), default=0.9,
                       help="part of the loss that is the teacher's; the rest is the labels'")
    add_run_flags(parser, resume="go on after an interruption")
    parser.add_argument("--threads", type=within(int, 1, 4096),
                        help="of this process; the result depends on it (default: what torch takes)")
    parser.add_argument("--save_file", required=True, help="name of the checkpoint, checkpoints/SAVE_FILE.t7")
    return parser


def epoch_list(text: str) -> list:
    try:
        value = ast.literal_eval(text)
        if isinstance(value, (list, tuple)) and all(isinstance(v, int) and v > 0 for v in value):
            return list(value)
    except (ValueError, SyntaxError):
        pass
    raise argparse.ArgumentTypeError(f"expected a list such as [60,120,160], found {text}")


def main() -> None:
    args = get_parser().parse_args()
    name = save_name(args.save_file)
    network_of(args)  # before torch is loaded and images are read
    path = writable_folder("checkpoints") / f"{name}.t7"
    if args.teacher and locate(args.teacher, "checkpoints", ".t7").resolve() == path.resolve():
        raise UserError(f"--save_file={args.save_file}: would overwrite the teacher; choose another name")
    from utils import device
    with journal.locked(path), device.memory_errors():
        train(args, path)


def network_of(args: argparse.Namespace, **more):
    """(network, widths) of the flags."""
    network = describe_or_fail(net=args.net, depth=args.depth, width=args.width, **more)
    if args.channels is None:
        return network, network.full_widths
    return network, channels.read_channels(channels.channels_path(args.channels), network)


def train(args: argparse.Namespace, path: Path) -> None:
    """Train, from the beginning or from the checkpoint at ``path``, which is written after every epoch."""
    import torch
    from model.torch_net import TorchNet
    from utils import checkpoint, data, device as devices, training

    saved = unfinished(path, args)
    device = devices.pick(args.device, args.precision)
    args.precision = device.precision
    args.threads = args.threads or torch.get_num_threads()
    devices.settle(device, args.threads)
    images = data.load(args.dataset, args.data_loc, 32, args.workers)
    network, widths = network_of(args, num_classes=len(images.classes))
    held_in = images.train if args.full_train else data.split_holdout(images.train, args.holdout_prop)[0]
    teacher, normalisation, taught = teacher_of(args, network, device)
    normalisation = normalisation or data.measure_normalisation(held_in)
    torch.manual_seed(args.seed)
    model = TorchNet(network, widths)
    if saved:
        model = checkpoint.build(saved, path)
    model = device.place(model)
    optimizer = training.sgd(model, args.learning_rate, args.momentum, args.weight_decay)
    history, first = [], 0
    if saved:
        history, first = saved["error_history"], saved["epoch"]
        if saved["arguments"] != network.arguments:
            raise UserError(f"{path}: was trained on other data: {saved['arguments']}, now {network.arguments}")
        if saved["widths"] != widths:
            raise UserError(f"{path}: began with other channels than {args.channels} has now; remove one of them")
        if saved.get("teacher_sha256") != taught.get("teacher_sha256"):
            raise UserError(f"{path}: began with other weights than the teacher {args.teacher} has now; remove one of them")
    if saved and first < args.epochs:
        checkpoint.restore_optimizer(optimizer, saved, path)
    print(f"{args.net}-{args.depth}-{args.width:g}: {network.parameter_count(model.widths):,} parameters on "
          f"{device.name} in {device.precision}; "
          f"{len(held_in):,} images to train on, {len(images.test):,} to test, {len(images.classes)} classes")

    source = training.BatchSource(held_in.to(device.name), normalisation, images.flip, args.batch_size)
    test, began = images.test.to(device.name), time.monotonic()
    for epoch in range(first, args.epochs):
        rate = training.learning_rate(epoch, base=args.learning_rate, lr_type=args.lr_type, epochs=args.epochs,
                                      epoch_step=args.epoch_step, decay_ratio=args.lr_decay_ratio)
        loss = training.train_epoch(model, optimizer, source, device, rate, (args.seed, epoch), f"epoch {epoch + 1}",
                                    teacher)
        history.append(training.error_pct(model, test, normalisation, device))
        done = epoch + 1 == args.epochs
        checkpoint.save(path, model, normalisation, epoch=epoch + 1, error_history=history, flags=checkpoint.flags_of(args),
                        classes=list(images.classes),
                        holdout_prop=0.0 if args.full_train else args.holdout_prop, **taught,
                        **({} if done else {"optimizer": optimizer.state_dict()}))
        left = (time.monotonic() - began) / (epoch + 1 - first) * (args.epochs - epoch - 1)
        print(f"epoch {epoch + 1}/{args.epochs}  rate {rate:.4g}  loss {loss:.4f}  test error {history[-1]:.2f}%  "
              f"{left / 60:.1f} min left", flush=True)
    print(f"{path}: test error {history[-1]:.2f}% after {args.epochs} epochs")


def teacher_of(args: argparse.Namespace, network, device):
    """(the teacher, the normalisation of the images that it takes, what the checkpoint says of it); nothing without
    --teacher."""
    from utils import checkpoint
    from utils.distillation import Teacher, open_teacher
    if args.teacher is None:
        return None, None, {}
    content, model = open_teacher(locate(args.teacher, "checkpoints", ".t7"), network)
    model = device.place(model).eval().requires_grad_(False)
    teacher = Teacher(model, args.temperature, args.teacher_weight)
    return teacher, checkpoint.normalisation_of(content), {"teacher_sha256": checkpoint.weights_sha256(content)}


def unfinished(path: Path, args: argparse.Namespace):
    """The checkpoint to go on from, or None to begin.

    A finished training is replaced; UserError protects everything else that stands there.
    """
    from utils import checkpoint
    if not path.exists():
        if args.resume:
            print(f"{path}: nothing to resume yet, beginning")
        return None
    saved = checkpoint.load(path)
    if "prune_history" in saved:
        raise UserError(f"{path}: a network made by prune.py; choose another --save_file")
    if args.resume:
        older = {**vars(get_parser().parse_args(["--save_file=x"])), "precision": "fp32"}  # what an older version did
        began = {**older, **saved["flags"]}
        if args.precision == "auto" and began["precision"] in ("fp32", "bf16"):
            args.precision = began["precision"]
        args.threads = args.threads or began["threads"]
        changed = changed_flags(began, vars(args), FREE_FLAGS)
        if changed:
            raise UserError(f"{path}: cannot resume, it was made with other flags: {changed}")
        return saved
    if saved["epoch"] < saved["flags"].get("epochs", 0):
        raise UserError(f"{path}: an unfinished training ({saved['epoch']} of {saved['flags']['epochs']} epochs); add "
                        "--resume to go on, or remove it to start over")
    print(f"{path}: a finished training stands there and will be replaced", flush=True)
    return None


if __name__ == "__main__":
    run(main)
